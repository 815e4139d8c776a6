"""google-benchmark's JSON, for its tools/compare.py and the U test in it.

https://github.com/google/benchmark: one process is one repetition, and its median is the repetition's time.
The U test assumes independent repetitions, and samples within a process are not independent.
"""

from __future__ import annotations

import re
import statistics
from typing import Any

from flashbench.results.export.names import named
from flashbench.results.export.times import process_medians_ns, process_samples_ns, usable_time
from flashbench.results.record import Machine, Measurement, Results, Time
from flashbench.texts import indented_json

# compare.py divides by cpu_time and tests it too, so the field must have a value. flashbench does not measure
# CPU time, which would count spinning threads as work.
CPU_TIME = "same as real_time: flashbench measures wall time only"
NOMINAL_CLOCK = re.compile(r"@ ?(\d+(?:\.\d+)?) ?GHz")


def takes(row: Measurement) -> bool:
    """Takes a right result with a time, and a failure, which becomes an entry with error_occurred."""
    return row.status != "ok" or row.time is not None


def render(results: Results) -> str:
    """One entry per process; with two or more also mean, median, stddev and cv over the processes."""
    entries: list[dict[str, Any]] = []
    for family, (name, row) in enumerate(named(results)):
        time = usable_time(row)
        if time:
            entries += _entries(name, row, time, family)
        elif takes(row):
            entries.append(_error(name, row, family))
    return indented_json({"context": _context(results), "benchmarks": entries}).decode()


def _entries(name: str, row: Measurement, time: Time, family: int) -> list[dict[str, Any]]:
    medians = process_medians_ns(time)
    calls = [len(samples) for samples in process_samples_ns(time)]
    shared = _shared(name, row, family, repetitions=len(medians))
    entries = [
        {
            **shared,
            "name": name,
            "run_type": "iteration",
            "repetition_index": index,
            "iterations": count,
            **_times(median),
            **_counters(row, median),
        }
        for index, (median, count) in enumerate(zip(medians, calls, strict=True))
    ]
    if len(medians) > 1:
        entries += [
            {
                **shared,
                "name": f"{name}_{aggregate}",
                "run_type": "aggregate",
                "aggregate_name": aggregate,
                "aggregate_unit": unit,
                "iterations": len(medians),
                **_times(value),
            }
            for aggregate, unit, value in _aggregates(medians)
        ]
    return entries


def _error(name: str, row: Measurement, family: int) -> dict[str, Any]:
    """Times of 0, as google-benchmark writes after SkipWithError."""
    return {
        **_shared(name, row, family, repetitions=1),
        "name": name,
        "run_type": "iteration",
        "repetition_index": 0,
        "error_occurred": True,
        "error_message": f"{row.status}: {row.reason}" if row.reason else row.status,
        "iterations": 0,
        **_times(0.0),
    }


def _shared(name: str, row: Measurement, family: int, *, repetitions: int) -> dict[str, Any]:
    """`family_index` keeps the entries of a measurement together when compare.py sorts them."""
    return {
        "family_index": family,
        "per_family_instance_index": 0,
        "run_name": name,
        "repetitions": repetitions,
        "threads": row.threads or 1,
    }


def _times(real_ns: float) -> dict[str, Any]:
    return {"real_time": real_ns, "cpu_time": real_ns, "time_unit": "ns"}


def _counters(row: Measurement, median_ns: float) -> dict[str, float]:
    """google-benchmark's user counters: numbers beside the times."""
    counters: dict[str, float] = {}
    if median_ns > 0:
        counters["flops_per_second"] = row.problem.flops(row.direction) / median_ns * 1e9
        if row.rates and row.rates.gbps is not None and row.time:
            # By google-benchmark's own name; of this process, as the operations above.
            counters["bytes_per_second"] = row.rates.gbps * 1e9 * row.time.median_ns / median_ns
    if row.memory:
        counters["workspace_peak_bytes"] = float(row.memory.workspace_peak_bytes)
    return counters


def _aggregates(medians: list[float]) -> list[tuple[str, str, float]]:
    mean, deviation = statistics.fmean(medians), statistics.stdev(medians)
    return [
        ("mean", "time", mean),
        ("median", "time", statistics.median(medians)),
        ("stddev", "time", deviation),
        ("cv", "percentage", deviation / mean if mean else 0.0),
    ]


def _context(results: Results) -> dict[str, Any]:
    machine = results.machine
    context = {
        "date": results.created,
        "host_name": machine.host,
        "executable": "flashbench",
        "num_cpus": machine.cores or 0,
        "mhz_per_cpu": _nominal_mhz(machine.cpu),
        "caches": _caches(machine),
        "load_avg": [] if machine.load is None else [machine.load],
        "library_version": results.flashbench_version,
        "library_build_type": "release",
        "json_schema_version": 1,
        # Custom context: all values are text.
        "cpu_time": CPU_TIME,
        "cpu": machine.cpu,
        "isa": machine.isa,
        "os": machine.os,
        "python": machine.python,
    }
    # google-benchmark's rule. It leaves the key out if it does not know.
    if machine.governor is not None:
        context["cpu_scaling_enabled"] = machine.governor != "performance"
    return {key: value for key, value in context.items() if value is not None}


def _nominal_mhz(cpu: str) -> int:
    """The clock in the CPU's name; 0 if the name has none, as google-benchmark writes it."""
    match = NOMINAL_CLOCK.search(cpu)
    return round(float(match[1]) * 1000) if match else 0


def _caches(machine: Machine) -> list[dict[str, Any]]:
    """From `L1d`, `L2`, ...; num_sharing is not recorded, so 0."""
    found = []
    for name, size in machine.caches.items():
        match = re.fullmatch(r"L(\d)(d?)", name)
        if match:
            kind = "Data" if match[2] else "Unified"
            found.append({"type": kind, "level": int(match[1]), "size": size, "num_sharing": 0})
    return found
