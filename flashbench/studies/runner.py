"""Runs a study and makes its results, whatever happens to its engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version

import msgspec

from flashbench.kernels.threads import available_cores
from flashbench.measure.machine import MachineFacts, describe_machine
from flashbench.results.record import SCHEMA_VERSION, Machine, Results
from flashbench.studies.session import Progress, Session
from flashbench.studies.study import Study

__all__ = ["Interrupted", "Progress", "failed", "run"]

FAILURES = ("out_of_memory", "timeout", "crashed", "wrong")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `results` holds the points that were finished."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results


def run(
    study: Study, *, command: Sequence[str], on_progress: Callable[[Progress], None] = lambda _: None
) -> Results:
    """Measure every point of the study; a point that fails is a row that says so.

    `command` is what the user typed, for the record. Raises EngineError before anything runs if an
    engine is unknown or its library is missing, and Interrupted on Ctrl-C.
    """
    threads = study.threads or available_cores()
    created = datetime.now().astimezone().isoformat(timespec="seconds")
    facts = describe_machine()  # before the run, whose own load is not of interest
    session = Session(study, threads, on_progress)

    def results() -> Results:
        machine = _machine(facts, session.peak_gflops(), threads)
        return Results(
            schema_version=SCHEMA_VERSION,
            kind=study.kind,
            created=created,
            flashbench_version=version("flashbench"),
            command=list(command),
            config={**msgspec.to_builtins(study), "threads": threads},
            machine=machine,
            measurements=[
                row.measurement(machine.peak_gflops.get(row.point.problem.dtype))
                for row in session.rows
                if row.done
            ],
        )

    try:
        session.measure()
    except KeyboardInterrupt:
        raise Interrupted(results()) from None
    return results()


def failed(results: Results) -> bool:
    """Whether a point was tried and failed; what is unsupported or too large was not tried."""
    return any(row.status in FAILURES for row in results.measurements)


def _machine(facts: MachineFacts, peak_gflops: dict[str, float], threads: int) -> Machine:
    from flashbench.kernels.isa import ISA  # loads Numba, which a run of other engines has no need of

    return Machine(
        **dataclasses.asdict(facts),
        isa=ISA.name,
        cores=available_cores(),
        peak_gflops=peak_gflops,
        peak_threads=threads if peak_gflops else None,
    )
