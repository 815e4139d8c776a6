"""pyperf's JSON (format 1.0), for `python -m pyperf stats`, `hist` and `compare_to`.

https://pyperf.readthedocs.io/en/latest/api.html#json-format: a run is one process, its values are seconds.
We write it without pyperf, so an export does not need pyperf installed.
"""

from __future__ import annotations

from typing import Any

from flashbench.results.export.names import named
from flashbench.results.export.times import process_samples_ns, usable_time
from flashbench.results.record import Machine, Measurement, Results, Time
from flashbench.texts import indented_json

FORMAT_VERSION = "1.0"
SHORTEST_NS = 1.0  # pyperf refuses a value of 0, and a coarse clock may return 0
Metadata = dict[str, int | float | str]


def takes(row: Measurement) -> bool:
    """Takes a right result with a time: pyperf's format holds nothing else."""
    return usable_time(row) is not None


def render(results: Results) -> str:
    """Every sample, in the order taken. No warmups: flashbench records no discarded calls."""
    benchmarks = [
        _benchmark(results, name, row, time) for name, row in named(results) if (time := usable_time(row))
    ]
    metadata = _known({"created": results.created, **_machine(results.machine)})
    return indented_json({"version": FORMAT_VERSION, "metadata": metadata, "benchmarks": benchmarks}).decode()


def _benchmark(results: Results, name: str, row: Measurement, time: Time) -> dict[str, Any]:
    process = results.processes.get(row.side or row.engine)
    metadata = _known(
        {
            "name": name,
            "unit": "second",
            "loops": 1,
            "flashbench_version": process.flashbench_version if process else results.flashbench_version,
            "python_version": process.python_version if process else results.machine.python,
            "kernel": row.kernel,
            "isa_path": row.isa_path,
            "threads": row.threads,
            "gflops": row.rates.gflops if row.rates else None,
            "percent_of_peak": row.rates.percent_of_peak if row.rates else None,
            "gbps": row.rates.gbps if row.rates else None,
            "percent_of_bandwidth": row.rates.percent_of_bandwidth if row.rates else None,
            "workspace_peak_bytes": row.memory.workspace_peak_bytes if row.memory else None,
        }
    )
    return {
        "metadata": metadata,
        "runs": [
            {"values": [max(SHORTEST_NS, sample) / 1e9 for sample in samples]}
            for samples in process_samples_ns(time)
        ],
    }


def _machine(machine: Machine) -> dict[str, int | float | str | None]:
    """By pyperf's own names, where pyperf has one."""
    return {
        "hostname": machine.host,
        "cpu_model_name": machine.cpu,
        "cpu_count": machine.cores,
        "cpu_affinity": ",".join(map(str, machine.affinity)) if machine.affinity else None,
        "platform": machine.os,
        "load_avg_1min": machine.load,
        "microarchitecture": machine.microarchitecture,
        "isa": machine.isa,
        "governor": machine.governor,
    }


def _known(metadata: dict[str, int | float | str | None]) -> Metadata:
    """Without empty values and line breaks, which pyperf refuses."""
    words = {
        key: " ".join(value.split()) if isinstance(value, str) else value for key, value in metadata.items()
    }
    return {key: value for key, value in words.items() if value is not None and value != ""}
