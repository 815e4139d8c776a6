"""Correctness before timing: a worker checks a row's result, and the row records it."""

from __future__ import annotations

from flashbench.measure.worker import Worker
from flashbench.results.record import Accuracy
from flashbench.studies.rows import Row
from flashbench.studies.workload import Checked


def check_row(row: Row, worker: Worker) -> None:
    """Compare the last call with the oracle; a wrong result becomes the row's status."""
    found = Checked(**worker.check(row.slot))
    row.accuracy = Accuracy(
        max_abs_error=found.max_abs_error, tolerance=found.tolerance, rows_checked=found.rows_checked
    )
    if found.wrong is not None:
        row.status, row.reason = "wrong", found.wrong
