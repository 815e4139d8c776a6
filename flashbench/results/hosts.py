"""A file of a cluster as one file for each host."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from flashbench.results.record import Machine, Results


def each_host(results: Results) -> list[Results]:
    """The results of each host, in the order in which they came; of one machine: the results themselves.

    A host's tasks become one file, with the settings of the whole study. Results of different hosts are never
    pooled.
    """
    if not results.hosts:
        return [results]
    tasks: dict[str, list[Results]] = {}
    for task in results.hosts:
        tasks.setdefault(task.machine.host, []).append(task)
    return [_joined(results, of_host) for of_host in tasks.values()]


def _joined(whole: Results, tasks: Sequence[Results]) -> Results:
    """The tasks of one host as one file."""
    last = tasks[-1]
    processes = {name: process for task in tasks for name, process in task.processes.items()}
    return replace(
        last,
        created=tasks[0].created,
        command=whole.command,
        config=whole.config | {"threads": last.config.get("threads")},
        machine=_best([task.machine for task in tasks]),
        measurements=[row for task in tasks for row in task.measurements],
        training=[row for task in tasks for row in task.training],
        inference=[row for task in tasks for row in task.inference],
        processes=processes,
        warnings=list(dict.fromkeys(line for task in tasks for line in task.warnings)),
        complete=all(task.complete for task in tasks),
    )


def _best(machines: Sequence[Machine]) -> Machine:
    """The machine with the highest of the limits that its tasks measured."""
    peaks: dict[str, float] = {}
    for machine in machines:
        for name, value in machine.peak_gflops.items():
            peaks[name] = max(value, peaks.get(name, 0.0))
    bandwidths = [one.read_bandwidth_gbps for one in machines if one.read_bandwidth_gbps is not None]
    threads = max((one.peak_threads for one in machines if one.peak_threads is not None), default=None)
    return replace(
        machines[-1],
        peak_gflops=peaks,
        peak_threads=threads,
        read_bandwidth_gbps=max(bandwidths, default=None),
    )
