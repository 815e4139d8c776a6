"""Alignment of scratch memory."""

from __future__ import annotations

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def aligned(size: int) -> int:
    """size, in bytes, rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT
