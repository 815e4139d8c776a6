"""How studies and duels time a row: one burst of calls in its worker."""

from __future__ import annotations

from flashbench.measure.worker import Worker
from flashbench.studies.rows import Row
from flashbench.studies.study import Study

# A burst of short calls lasts this long or has this many calls, if `repeats` is fewer.
BURST_NS = 50_000_000
BURST_CALLS = 50


def time_row(row: Row, worker: Worker, study: Study, *, same_process: bool = False) -> None:
    """Add a burst to the row. With cold caches a call takes long, and a burst has `repeats` calls only.

    same_process: the burst comes from the process of the row's last burst.
    """
    least_ns, most = (0, study.repeats) if study.cold else (BURST_NS, BURST_CALLS)
    burst = worker.time(row.slot, study.repeats, at_least_ns=least_ns, at_most=most, cold=study.cold)
    row.add(burst, same_process=same_process)
