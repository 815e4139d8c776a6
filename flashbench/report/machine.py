"""The machine as a table of two columns, and a line for each piece of advice."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flashbench.analysis.words import counted, settings_word, versions_word
from flashbench.report.layout import NOT_STATED, caches_word, dashed
from flashbench.report.tones import Line, Tone
from flashbench.report.units import format_bytes
from flashbench.results.record import Machine, Results
from flashbench.system.sysfs import core_ranges

Rows = list[tuple[str, str | None]]


def machine_report(results: Results) -> RenderableType:
    """The machine, its state, what was measured, and advice."""
    machine = results.machine
    sections = [
        _hardware(machine),
        _state(machine),
        _limits(machine, quick=bool(results.config.get("quick"))),
    ]
    parts: list[RenderableType] = [Line(machine.host, Tone.STRONG), _table(sections)]
    if results.warnings:
        parts += [Text(), Line("Advice", Tone.STRONG), dashed(results.warnings)]
    return Group(*parts)


def _hardware(machine: Machine) -> Rows:
    return [
        ("CPU", machine.cpu),
        ("microarchitecture", machine.microarchitecture),
        ("ISA used", machine.isa),
        *_paths(machine),
        ("cores", _cores(machine)),
        *_limits_of_cores(machine),
        ("threads a core", _number(machine.threads_per_core)),
        ("virtual machine", _yes_no(machine.virtual)),
        ("caches", caches_word(machine)),
        ("memory", None if machine.memory_bytes is None else format_bytes(machine.memory_bytes)),
        *numa_rows(machine),
        ("system", _joined(machine.os, machine.python and f"Python {machine.python}")),
        ("libraries", versions_word(machine.libraries)),
    ]


def _paths(machine: Machine) -> Rows:
    """The path of each dtype, and a row for each path that this CPU has not."""
    if not machine.paths:
        return []
    taken = ", ".join(f"{dtype} {path}" for dtype, path in machine.paths.items())
    lacking = [f"no {name}: {reason}" for name, reason in machine.paths_lacking.items()]
    return [("paths", taken), *(("", line) for line in lacking)]


def numa_rows(machine: Machine) -> Rows:
    """A row for each NUMA node; one that says nothing if the system does not tell."""
    rows: Rows = []
    for node in machine.numa_nodes:
        cpus = f"CPUs {core_ranges(node.cpus)}" if node.cpus else "no CPUs"
        size = "" if node.memory_bytes is None else f", {format_bytes(node.memory_bytes)}"
        rows.append((f"NUMA node {node.number}", f"{cpus}{size}"))
    return rows or [("NUMA nodes", None)]


def _state(machine: Machine) -> Rows:
    return [
        ("governor", machine.governor),
        ("boost", _yes_no(machine.boost, "on", "off")),
        ("load", None if machine.load is None else f"{machine.load:.2f} over the last minute"),
        (
            "other processes",
            None if machine.others_cores is None else f"keep {machine.others_cores:.2f} cores busy just now",
        ),
        (
            "steal",
            None
            if machine.steal_percent is None
            else f"{machine.steal_percent:.2f} % of CPU time since boot",
        ),
        (
            "swap",
            None if machine.swap_used_bytes is None else f"{format_bytes(machine.swap_used_bytes)} used",
        ),
    ]


def _limits(machine: Machine, *, quick: bool) -> Rows:
    threads = machine.peak_threads
    on = "" if threads is None else f" on {counted(threads, 'thread')}"
    peaks = ", ".join(f"{gflops:.0f} GFLOP/s {name}" for name, gflops in machine.peak_gflops.items())
    missing = "not measured" + (" (--quick)" if quick else "")
    bandwidth, floor = machine.read_bandwidth_gbps, machine.noise_floor
    return [
        ("FMA peak", f"{peaks}{on}" if peaks else missing),
        ("read bandwidth", missing if bandwidth is None else f"{bandwidth:.1f} GB/s{on}"),
        (
            "noise floor",
            "not measured: flashbench duel --aa measures it"
            if floor is None
            else f"{100 * floor:.1f} %: smaller changes cannot be told",
        ),
    ]


def _table(sections: Iterable[Rows]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for rows in sections:
        table.add_row()
        for name, value in rows:
            table.add_row(name, Text(value) if value else Line(NOT_STATED))
    return table


def _cores(machine: Machine) -> str | None:
    if machine.cores is None:
        return None
    if machine.affinity is None:
        return str(machine.cores)
    of = "" if machine.cores == len(machine.affinity) else f" of {len(machine.affinity)}"
    return f"{machine.cores}{of} (numbers {core_ranges(machine.affinity)})"


def _limits_of_cores(machine: Machine) -> Rows:
    """Rows that few machines need."""
    rows: Rows = []
    if machine.cpu_quota is not None:
        rows.append(("CPU quota", f"{machine.cpu_quota:.3g} cores' time, by control groups"))
    if machine.binding:
        rows.append(("thread binding", settings_word(machine.binding)))
    return rows


def _yes_no(value: bool | None, yes: str = "yes", no: str = "no") -> str | None:
    return None if value is None else yes if value else no


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def _joined(*words: str | None) -> str:
    return ", ".join(filter(None, words))
