"""What an interval and a p-value say about a change, and what a status says where there is no time."""

from __future__ import annotations

from flashbench.measure.statistics import Interval
from flashbench.results.record import Measurement, Verdict

ALPHA = 0.05


def judge(interval: Interval, p_value: float, threshold: float, alpha: float = ALPHA) -> Verdict:
    """Regressed or improved when the whole interval is beyond the threshold and chance is excluded, same
    when all of it is inside, inconclusive otherwise. `p_value` is the one adjusted for how many there are.

    >>> judge(Interval(1.02, 0.99, 1.04), 0.5, threshold=0.05)
    'same'
    >>> judge(Interval(1.04, 0.99, 1.08), 0.5, threshold=0.05)
    'inconclusive'
    """
    if interval.low > 1 + threshold and p_value <= alpha:
        return "regressed"
    if interval.high < 1 / (1 + threshold) and p_value <= alpha:
        return "improved"
    inside = 1 / (1 + threshold) <= interval.low and interval.high <= 1 + threshold
    return "same" if inside else "inconclusive"


def status_verdict(base: Measurement, new: Measurement) -> tuple[Verdict | None, str | None]:
    """The verdict where a side is not ok; (None, None) where both are, and the figures decide."""
    if base.status == new.status:
        return (None, None) if base.status == "ok" else ("same", f"{base.status} in both")
    if new.status == "ok":
        return "improved", f"was {base.status}"
    if base.status == "ok":
        return "regressed", f"now {new.status}"
    return "inconclusive", f"{base.status}, now {new.status}"
