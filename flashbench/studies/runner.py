"""Runs a study and makes its results, whatever happens to its engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from flashbench.analysis.advice import run_warnings
from flashbench.analysis.movement import movement_warnings
from flashbench.measure.machine import MachineFacts, describe_machine
from flashbench.results.peaks import path_peak
from flashbench.results.record import Machine, Results
from flashbench.studies.limits import Limits
from flashbench.studies.nothing import is_empty
from flashbench.studies.progress import Progress
from flashbench.studies.resume import restore
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.studies.session import Session
from flashbench.studies.study import Study
from flashbench.system.cores import available_cores

__all__ = ["Interrupted", "failed", "run"]

FAILURES = ("out_of_memory", "timeout", "crashed", "wrong")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `results` holds what was measured."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results


def run(
    study: Study,
    *,
    command: Sequence[str],
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_results: Callable[[Results], None] | None = None,
    earlier: Results | None = None,
) -> Results:
    """Measure every point of the study; a point that fails is a row that says so.

    `command` is what the user typed, for the record. `on_results` gets all that is known whenever
    something new is, so that a killed run has lost only what was in flight. `earlier` is such a file:
    the run goes on from there.

    Raises EngineError before anything runs if an engine is unknown or its library is missing,
    NothingToMeasureError if no point can be measured, ResultsError if `earlier` is of another study or
    machine, and Interrupted on Ctrl-C.
    """
    study = replace(study, threads=study.threads or available_cores())
    record = RunRecord(study.kind, command, msgspec.to_builtins(study))
    facts = describe_machine()  # before the run, whose own load is not of interest

    def step() -> None:
        if on_results is not None:
            on_results(results())

    session = Session(study, on_progress, step)
    if earlier is not None:
        restore(session.rows, earlier, record.config, facts.cpu)

    def results() -> Results:
        machines = {threads: _with_limits(facts, limits) for threads, limits in session.limits.items()}
        machine = machines[max(machines)]
        if machine.read_bandwidth_gbps is None and earlier is not None:
            machine = replace(machine, read_bandwidth_gbps=earlier.machine.read_bandwidth_gbps)
            machines[max(machines)] = machine
        measurements = [
            row.measurement(
                path_peak(machines[row.threads], row.point.problem.dtype, row.path),
                machines[row.threads].read_bandwidth_gbps,
            )
            for row in session.rows
            if row.tried
        ]
        return record.results(
            machine,
            measurements=[row for row in measurements if row.time or row.status != "ok"],
            processes={**(earlier.processes if earlier else {}), **session.processes},
            warnings=[*run_warnings(machine), *movement_warnings(measurements)],
            complete=session.complete,
        )

    try:
        session.measure()
    except KeyboardInterrupt:
        raise Interrupted(results()) from None
    return results()


def _with_limits(facts: MachineFacts, limits: Limits) -> Machine:
    """The machine with its limits on a number of threads."""
    return make_machine(
        facts, limits.peak_gflops(), limits.threads, read_bandwidth_gbps=limits.read_bandwidth_gbps
    )


def failed(results: Results) -> bool:
    """Whether a point was tried and failed, which what is unsupported or too large was not, or none timed.

    In whole models a point also fails whose losses or tokens differ from other arms'. On a cluster a part
    that no host measured is a failure too.
    """
    lacking = bool(results.hosts) and not results.complete
    return is_empty(results) or lacking or any(row.status in FAILURES for row in results.rows)
