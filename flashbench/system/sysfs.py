"""Small files that Linux describes itself in."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """What the file says; None where it is not there, empty, or hidden from us."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip() or None
    except TimeoutError:  # of a signal handler, for a deadline
        raise
    except OSError:  # not this system, a sandbox, or for root alone
        return None


def read_number(path: Path) -> int | None:
    """The file's whole number; None where it has none."""
    text = read_text(path)
    return int(text) if text is not None and text.isdigit() else None


def read_list(path: Path) -> list[int]:
    """Numbers of cores from `0-3,8`; empty where it is not told.

    Raises ValueError when the file says something else.
    """
    numbers: list[int] = []
    for part in (read_text(path) or "").split(","):
        first, _, last = part.partition("-")
        if first:
            numbers += range(int(first), int(last or first) + 1)
    return numbers
