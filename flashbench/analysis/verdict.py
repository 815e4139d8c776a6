"""What an interval and a p-value say about a change, what a failed side does, and the exit code of it all."""

from __future__ import annotations

from collections.abc import Iterable

from flashbench.measure.statistics import Interval
from flashbench.results.record import Measurement, Verdict

ALPHA = 0.05
FAILED = 4  # the exit code where a side has no time that counts


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


def between_engines(verdict: Verdict) -> Verdict:
    """Of B against A where they are two engines: neither is the other's next version."""
    if verdict == "regressed":
        return "a_faster"
    return "b_faster" if verdict == "improved" else verdict


def status_verdict(base: Measurement, new: Measurement) -> tuple[Verdict | None, str | None]:
    """Of two versions, where one is not ok; (None, None) where both are, and the figures decide.

    What has no time has become neither slower nor faster.
    """
    if base.status == new.status:
        return (None, None) if base.status == "ok" else ("same", f"{_word(base)} in both")
    if new.status == "ok":
        return "failed", f"was {_word(base)}"
    return "failed", f"now {_word(new)}" if base.status == "ok" else f"{_word(base)}, now {_word(new)}"


def sides_verdict(a: Measurement, b: Measurement) -> tuple[Verdict | None, str | None]:
    """Of a duel, where a side is not ok; (None, None) where both are, and the figures decide."""
    failed = [f"{side} {_word(row)}" for side, row in (("A", a), ("B", b)) if row.status != "ok"]
    return ("failed", ", ".join(failed)) if failed else (None, None)


def verdicts_exit_code(judged: Iterable[tuple[Verdict, Measurement]]) -> int:
    """Of verdicts and what each judges, B or the new side. 1: something is slower; 4: nothing is, but what is
    judged has failed; 3: something cannot be told, as where only what it is judged by has failed; else 0.
    """
    found = {
        "inconclusive" if verdict == "failed" and row.status == "ok" else verdict for verdict, row in judged
    }
    for verdict, code in (("regressed", 1), ("a_faster", 1), ("failed", FAILED), ("inconclusive", 3)):
        if verdict in found:
            return code
    return 0


def _word(row: Measurement) -> str:
    return row.status.replace("_", " ")
