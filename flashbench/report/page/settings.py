"""Tables of the machine, the run, its settings, and each engine's processes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from flashbench.analysis.words import counted, settings_word, versions_word
from flashbench.report.charts.series import Source
from flashbench.report.layout import NOT_STATED, caches_word
from flashbench.report.machine import numa_rows
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.units import format_bytes
from flashbench.results.record import Machine, Process, Results, Threadpool


def machine_table(sources: Sequence[Source]) -> Table:
    """Everything of `Machine`, with a column for each file."""
    return _by_file("machine", "Machine", "Property", sources, lambda results: _machine(results.machine))


def run_table(sources: Sequence[Source]) -> Table:
    """The run and its settings, with a column for each file."""
    return _by_file("settings", "Run and settings", "Setting", sources, _run)


def process_tables(sources: Sequence[Source]) -> list[Table]:
    """The libraries of each engine's processes and their settings, a table for each file that has them."""
    return [
        make_table(
            f"processes-{number}",
            "Processes" + (f", {source.name}" if len(sources) > 1 else ""),
            _headings(
                "Of", "Python", "Interpreter", "flashbench", "Environment", "Thread pools", "Libraries"
            ),
            [[of, *_process(process)] for of, process in source.results.processes.items()],
        )
        for number, source in enumerate(sources, start=1)
        if source.results.processes
    ]


def _by_file(
    id_: str,
    caption: str,
    first: str,
    sources: Sequence[Source],
    words_of: Callable[[Results], Mapping[str, str]],
) -> Table:
    columns = [words_of(source.results) for source in sources]
    names = list(dict.fromkeys(name for column in columns for name in column))
    headings = [source.name for source in sources]
    rows = [[name, *(column.get(name, NOT_STATED) for column in columns)] for name in names]
    return make_table(id_, caption, _headings(first, *headings), rows)


def _headings(*headings: str) -> list[Heading]:
    return [Heading(heading, words=True) for heading in headings]


def _machine(machine: Machine) -> dict[str, str]:
    words = {
        "Host": machine.host,
        "CPU": machine.cpu,
        "Microarchitecture": machine.microarchitecture,
        "SIMD path": machine.isa,
        **{f"Path of {dtype}": path for dtype, path in machine.paths.items()},
        **{f"No path {name}": reason for name, reason in machine.paths_lacking.items()},
        "Cores": machine.cores,
        "Affinity": machine.affinity and ", ".join(map(str, machine.affinity)),
        "CPU quota": machine.cpu_quota and f"{machine.cpu_quota:.3g} cores",
        "Thread binding": settings_word(machine.binding),
        "Threads a core": machine.threads_per_core,
        "Virtual": _yes(machine.virtual),
        "Memory": _size(machine.memory_bytes),
        **dict(numa_rows(machine)),
        "Swap used": _size(machine.swap_used_bytes),
        "Caches of a core": caches_word(machine),
        "Governor": machine.governor,
        "Boost": _yes(machine.boost),
        "Load before the run": _number(machine.load),
        "Cores busy with others": _number(machine.others_cores),
        "Steal": None if machine.steal_percent is None else f"{machine.steal_percent:.2f} %",
        "Noise floor": None if machine.noise_floor is None else f"{100 * machine.noise_floor:.2g} %",
        "Read bandwidth": _rate(machine.read_bandwidth_gbps, "GB/s"),
        **{
            f"Multiply-add peak, {name}": _rate(peak, "GFLOP/s") for name, peak in machine.peak_gflops.items()
        },
        "Threads of the peak": machine.peak_threads,
        "System": machine.os,
        "Python": machine.python,
        **machine.libraries,
    }
    return {name: str(word) for name, word in words.items() if word not in (None, "")}


def _run(results: Results) -> dict[str, str]:
    words = {
        "kind": results.kind,
        "created": results.created,
        "flashbench_version": results.flashbench_version,
        "schema_version, as read": str(results.schema_version),
        "command": shlex.join(results.command),
        "complete": _yes(results.complete),
        **_settings(results.config),
    }
    return {name: word for name, word in words.items() if word}


def _process(process: Process) -> list[str]:
    return [
        process.python_version,
        process.python,
        process.flashbench_version,
        settings_word(process.environment),
        "; ".join(map(_threadpool, process.threadpools)),
        versions_word(process.libraries),
    ]


def _threadpool(pool: Threadpool) -> str:
    """`openblas 0.3.31 (blas), 2 threads, SkylakeX, pthreads`."""
    name = " ".join(filter(None, (pool.internal_api, pool.version)))
    threads = counted(pool.num_threads, "thread")
    words = (f"{name} ({pool.user_api})", threads, pool.architecture, pool.threading_layer)
    return ", ".join(filter(None, words))


def _settings(config: Mapping[str, object], within: str = "") -> dict[str, str]:
    """Every setting by its name; a nested one as `study.seed`."""
    words: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            words |= _settings(value, f"{within}{name}.")
        else:
            words[within + name] = _setting(value)
    return words


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return str(value)


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _size(count: int | None) -> str | None:
    return None if count is None else format_bytes(count)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _rate(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.1f} {unit}"
