"""How reasons and advice spell memory: the units of the tables beside them."""

from __future__ import annotations


def size_word(count: int) -> str:
    """A tenth of a GiB, or of a MiB below that.

    >>> size_word(16 * 1024**3), size_word(5 * 1024**2)
    ('16.0 GiB', '5.0 MiB')
    """
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.1f} MiB"
