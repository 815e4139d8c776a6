"""How a row is timed, in a study's rounds as in a duel's: one burst of its worker."""

from __future__ import annotations

from flashbench.measure.worker import Worker
from flashbench.studies.rows import Row
from flashbench.studies.study import Study

# A burst of short calls goes on for this long, or for this many calls where `repeats` is less.
BURST_NS = 50_000_000
BURST_CALLS = 50


def time_row(row: Row, worker: Worker, study: Study, *, same_process: bool = False) -> None:
    """Add a burst to the row; with cold caches each call is dear, and only `repeats` are made.

    `same_process`: it belongs to the process that the row's last burst came from.
    """
    least_ns, most = (0, study.repeats) if study.cold else (BURST_NS, BURST_CALLS)
    burst = worker.time(row.slot, study.repeats, at_least_ns=least_ns, at_most=most, cold=study.cold)
    row.add(burst, same_process=same_process)
