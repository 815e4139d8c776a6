"""Words that reports, reasons and warnings share: directions, statuses, and counts of things."""

from __future__ import annotations

from collections.abc import Mapping

from flashbench.problem import Direction
from flashbench.results.record import Status

DIRECTION_WORDS: Mapping[Direction, str] = {
    "fwd": "forward",
    "bwd": "backward",
    "fwd_bwd": "forward and backward",
}
# "ok" has no word: a figure stands in its place.
STATUS_WORDS: Mapping[Status, str] = {
    "unsupported": "unsupported",
    "too_large": "too large",
    "out_of_memory": "out of memory",
    "timeout": "timeout",
    "crashed": "crashed",
    "wrong": "wrong",
}
NO_REASON = "no reason was recorded"


def settings_word(settings: Mapping[str, str]) -> str:
    """`OMP_NUM_THREADS=2, OMP_PROC_BIND=close`."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def versions_word(libraries: Mapping[str, str]) -> str:
    """`numpy 2.0.0, scipy 1.14.1`."""
    return ", ".join(f"{name} {version}" for name, version in libraries.items())


def counted(count: int, word: str) -> str:
    """The count and its word.

    >>> [counted(1, "head"), counted(2, "head"), counted(2, "query"), counted(0, "process")]
    ['1 head', '2 heads', '2 queries', '0 processes']
    """
    if count != 1:
        if word.endswith("y"):
            word = f"{word[:-1]}ies"
        else:
            word += "es" if word.endswith("s") else "s"
    return f"{count} {word}"
