"""Scratch memory of a thread: one declaration of its parts, from which its size and its pointers follow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from flashbench.codegen.structs import Number, Storage

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def aligned(size: int) -> int:
    """size, in bytes, rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Part(NamedTuple):
    """An array in scratch."""

    name: str
    elements: Callable[[Any], int]  # how many, from the sizes of a call; 0: the call does not need the part
    kind: Any = Number  # of its elements: Number or Storage


class ScratchLayout:
    """The parts of a thread's scratch, one after the other, each from a cache line on.

    `cells` is the struct that kernels read: a field a part, bytes from the scratch's start. A kernel makes
    pointers of them by `based(call.scratch, start of its own scratch)`, so that no address is written twice.
    """

    def __init__(self, name: str, *parts: Part) -> None:
        self.parts = parts
        self.cells: Any = NamedTuple(name, [(part.name, part.kind) for part in parts])  # type: ignore[misc]
        self.place = functools.lru_cache(maxsize=1024)(self._place)  # asked at every call

    def _place(self, sizes: Any) -> tuple[Any, int]:
        """(the cells, bytes of all parts) for sizes with `storage_bytes` and `number_bytes` among them."""
        offsets, end = [], 0
        for part in self.parts:
            offsets.append(end)
            itemsize = sizes.storage_bytes if part.kind is Storage else sizes.number_bytes
            end += aligned(part.elements(sizes) * itemsize)
        return self.cells(*offsets), end
