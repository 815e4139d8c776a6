"""Memory in words. Units are powers of 1024 and named so: KiB, MiB, GiB."""

from __future__ import annotations

from collections.abc import Sequence

BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def with_unit(
    count: int, units: Sequence[str] = BYTE_UNITS, *, decimals: int = 2, shown: int | None = None
) -> str:
    """The count in the largest unit that leaves at least 1; whole bytes below 1 KiB.

    shown: decimals to print, if fewer than those that it is rounded to.
    """
    if abs(count) < 1024:
        return f"{count} {units[0]}"
    value, left = count / 1024, list(units[1:])
    # Rounded as it will be printed, so that 1 MiB less a byte is not "1024.00 KiB".
    while abs(round(value, decimals)) >= 1024 and len(left) > 1:
        value /= 1024
        left.pop(0)
    return f"{round(value, decimals):.{decimals if shown is None else shown}f} {left[0]}"


def size_word(count: int) -> str:
    """Memory in reasons and advice.

    >>> size_word(16 * 1024**3), size_word(5 * 1024**2), size_word(1024)
    ('16.0 GiB', '5.0 MiB', '1.0 KiB')
    """
    return with_unit(count, decimals=1)
