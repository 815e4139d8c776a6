"""Reads the small files in which Linux describes itself (/proc, /sys)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

_CORES = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


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
    """Numbers of cores; empty if the file is missing or empty. Raises ValueError as `core_numbers` does."""
    text = read_text(path)
    return [] if text is None else core_numbers(text)


def core_numbers(text: str) -> list[int]:
    """Numbers of cores, sorted, from a list as Linux writes them. Raises ValueError if it is something else.

    >>> core_numbers("0-3,8")
    [0, 1, 2, 3, 8]
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = _CORES.fullmatch(part.strip())
        first, last = (0, -1) if match is None else (int(match[1]), int(match[2] or match[1]))
        if last < first:
            raise ValueError(f"not a list of cores: {text!r}")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def core_ranges(cores: Iterable[int]) -> str:
    """Numbers of cores as Linux writes them: the reverse of `core_numbers`.

    >>> core_ranges([0, 1, 2, 3, 8, 10, 11])
    '0-3,8,10-11'
    """
    runs = [
        [core for _, core in run]
        for _, run in groupby(enumerate(sorted(cores)), key=lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
