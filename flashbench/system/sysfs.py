"""Reads the small files in which Linux describes itself (/proc, /sys)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path


def read_text(path: Path) -> str | None:
    """The file's text, without white space around it; None if it is missing, empty or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip() or None
    except TimeoutError:  # from a signal handler, for a deadline
        raise
    except OSError:  # another system, a sandbox, or readable only by root
        return None


def read_number(path: Path) -> int | None:
    """The file's whole number; None if it has none."""
    text = read_text(path)
    return int(text) if text is not None and text.isdigit() else None


def read_list(path: Path) -> list[int]:
    """Numbers of cores, from a list such as `0-3,8`; empty if the file is missing or empty.

    Raises ValueError if the file holds something else.
    """
    numbers: list[int] = []
    for part in (read_text(path) or "").split(","):
        first, _, last = part.partition("-")
        if first:
            numbers += range(int(first), int(last or first) + 1)
    return numbers


def core_ranges(cores: Iterable[int]) -> str:
    """Numbers of cores as Linux writes them: the reverse of `read_list`.

    >>> core_ranges([0, 1, 2, 3, 8, 10, 11])
    '0-3,8,10-11'
    """
    runs = [
        [core for _, core in run]
        for _, run in groupby(enumerate(sorted(cores)), key=lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
