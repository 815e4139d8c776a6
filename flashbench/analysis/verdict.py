"""Verdicts from intervals, p-values and failed sides, and the exit code of all verdicts."""

from __future__ import annotations

from collections.abc import Iterable

from flashbench.analysis.words import STATUS_WORDS
from flashbench.measure.statistics import Interval
from flashbench.results.record import AnyRow, Verdict

ALPHA = 0.05
FAILED = 4  # exit code when a side has no valid time


def judge(interval: Interval, p_value: float, threshold: float, alpha: float = ALPHA) -> Verdict:
    """The verdict on one change.

    Regressed or improved: the whole interval is beyond the threshold and chance is excluded. Same: the
    whole interval is inside the threshold. Otherwise inconclusive. p_value: adjusted for the number of tests.

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


def undecided(rounds: int, interval: Interval) -> str:
    """The reason of an inconclusive verdict."""
    return f"{rounds} rounds leave {interval.low:.3f} to {interval.high:.3f}, which crosses the threshold"


def between_engines(verdict: Verdict) -> Verdict:
    """The verdict in words for two engines: B is another engine, not the next version of A."""
    if verdict == "regressed":
        return "a_faster"
    return "b_faster" if verdict == "improved" else verdict


def status_verdict(base: AnyRow, new: AnyRow) -> tuple[Verdict | None, str | None]:
    """Verdict and reason for two versions if one is not ok; (None, None) if both are: the figures decide.

    A side without a time is neither slower nor faster.
    """
    was, now = (STATUS_WORDS.get(row.status) for row in (base, new))  # None: ok
    if was == now:
        return (None, None) if was is None else ("same", f"{was} in both")
    if now is None:
        return "failed", f"was {was}"
    return "failed", f"now {now}" if was is None else f"{was}, now {now}"


def sides_verdict(a: AnyRow, b: AnyRow) -> tuple[Verdict | None, str | None]:
    """Verdict and reason for a duel if a side is not ok; (None, None) if both are: the figures decide."""
    failed = [
        f"{side} {STATUS_WORDS[row.status]}" for side, row in (("A", a), ("B", b)) if row.status != "ok"
    ]
    return ("failed", ", ".join(failed)) if failed else (None, None)


def verdicts_exit_code(judged: Iterable[tuple[Verdict, AnyRow]]) -> int:
    """The exit code of verdicts; each comes with the measurement that it judges, B or the new side.

    1: something is slower. 4: nothing is slower, but a judged measurement failed. 3: something cannot be
    decided, for instance because only the other side failed. 0: otherwise.
    """
    found = {
        "inconclusive" if verdict == "failed" and row.status == "ok" else verdict for verdict, row in judged
    }
    for verdict, code in (("regressed", 1), ("a_faster", 1), ("failed", FAILED), ("inconclusive", 3)):
        if verdict in found:
            return code
    return 0
