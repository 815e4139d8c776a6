"""A run that measures nothing: an error before it starts if possible, and no success after it."""

from __future__ import annotations

from collections.abc import Iterable

from flashbench.errors import FlashbenchError
from flashbench.results.record import Results

_REASONS_SHOWN = 3


class NothingToMeasureError(FlashbenchError):
    """Every point is unsupported, or too large for this machine; the message has the reasons."""


def nothing_to_measure(
    found: Iterable[tuple[str, str | None]], *, what: str = "measured"
) -> NothingToMeasureError:
    """The error of a run. found: for each point a name, such as its engine's, and the reason.

    >>> print(nothing_to_measure([("flash", "too long"), ("flash", "too long"), ("numpy", "no sinks")]))
    nothing can be measured: flash: too long; numpy: no sinks
    """
    reasons = list(dict.fromkeys(f"{name}: {reason}" for name, reason in found))
    more = len(reasons) - _REASONS_SHOWN
    listed = "; ".join(reasons[:_REASONS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return NothingToMeasureError(f"nothing can be {what}: {listed}")


def is_empty(results: Results) -> bool:
    """Whether no point was measured, neither with a right result nor with a wrong one."""
    return {row.status for row in results.rows}.isdisjoint(("ok", "wrong"))
