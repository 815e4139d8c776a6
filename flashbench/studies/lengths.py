"""Lengths of the sequences of a batch: in rows, or as shares of the longest, which fit every length."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.errors import ConfigError

Length = int | float


def are_shares(lengths: Sequence[Length]) -> bool:
    """Whether they are: one that has a point makes all of them shares, so that 0.5,1 ends in a whole."""
    return any(isinstance(length, float) for length in lengths)


def check_lengths(name: str, lengths: Sequence[Length]) -> None:
    """Raise ConfigError unless these are shares from 0 to 1, or rows from 0 up."""
    if not lengths:
        raise ConfigError(f"{name} must name at least one value")
    for length in lengths:
        if are_shares(lengths) and not 0 <= length <= 1:
            raise ConfigError(f"{name} with a point are shares of the length, from 0 to 1, not {length:g}")
        if length < 0:
            raise ConfigError(f"{name} must be at least 0, not {length}")


def rows_of_lengths(lengths: Sequence[Length], longest: int, batch: int) -> tuple[int, ...]:
    """Rows of each sequence; one length is that of all. A share above 0 is at least one row.

    >>> rows_of_lengths([0.25, 1.0], 512, batch=2), rows_of_lengths([100], 512, batch=2)
    ((128, 512), (100, 100))
    """
    if are_shares(lengths):
        rows = [max(round(share * longest), int(share > 0)) for share in lengths]
    else:
        rows = [int(length) for length in lengths]
    return tuple(rows * batch if len(rows) == 1 else rows)
