"""Scratch memory: how it is aligned."""

from __future__ import annotations

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
