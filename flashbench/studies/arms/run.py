"""Runs the rows of a study and makes its results, even if arms fail or the run is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from flashbench.analysis.advice import run_warnings
from flashbench.analysis.movement import throttle_warnings
from flashbench.measure.machine import describe_machine
from flashbench.results.record import Results
from flashbench.studies.arms.row import ArmRow
from flashbench.studies.arms.session import ArmSession, ArmStudy, Workers
from flashbench.studies.progress import Progress
from flashbench.studies.resume import check_same_study
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.studies.runner import Interrupted

Row = TypeVar("Row", bound=ArmRow)


def run_arms(
    study: ArmStudy,
    rows: Sequence[Row],
    workers: Workers,
    compare: Callable[[Sequence[Row]], None],
    *,
    records: Literal["training", "inference"],
    threads: int,
    command: Sequence[str],
    on_progress: Callable[[Progress], None],
    on_results: Callable[[Results], None],
    earlier: Results | None,
) -> Results:
    """Measure the rows of a study. A failed row keeps its reason, and the rest goes on.

    records: the field of `Results` for the rows. compare: see `ArmSession`.
    on_results: gets all results so far after each step.
    earlier: the results of an unfinished run, from which this run continues. Its failed rows are tried again.

    Raises ResultsError if `earlier` is from another study or machine, and Interrupted on Ctrl-C, with the
    results so far.
    """
    record = RunRecord(study.kind, command, {**msgspec.to_builtins(study), "threads": threads})
    facts = describe_machine()
    session = ArmSession(
        study,
        rows,
        threads,
        workers,
        compare,
        on_progress,
        lambda: on_results(results(complete=False)),
    )
    if earlier is not None:
        known = msgspec.to_builtins(type(study)()) | earlier.config
        check_same_study(earlier, record.config, facts.cpu, kind=study.kind, known_config=known)
        _restore(rows, getattr(earlier, records))

    def results(*, complete: bool) -> Results:
        machine = make_machine(facts, {}, threads)
        tables: dict[str, Any] = {records: [row.record() for row in rows if row.tried]}
        return record.results(
            machine,
            processes={**(earlier.processes if earlier else {}), **session.processes},
            warnings=[
                *run_warnings(machine),
                *throttle_warnings(sum(row.throttled_periods for row in rows)),
            ],
            complete=complete,
            **tables,
        )

    try:
        session.measure()
    except KeyboardInterrupt:
        raise Interrupted(results(complete=False)) from None
    return results(complete=True)


def _restore(rows: Sequence[ArmRow], earlier: Sequence[Any]) -> None:
    for row in rows:
        found = next((each for each in earlier if row.is_of(each)), None)
        if found is not None and row.can_run and found.status in ("ok", "wrong"):
            row.restore(found)
