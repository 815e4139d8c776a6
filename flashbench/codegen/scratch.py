"""Scratch memory of a thread. Its size and pointers are derived from one declaration of its parts."""

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
    """One array in scratch."""

    name: str
    elements: Callable[[Any], int]  # number of elements, from the sizes of a call; 0: not needed
    kind: Any = Number  # kind of the elements: Number or Storage


class ScratchLayout:
    """The parts of a thread's scratch, one after the other. Each begins a cache line.

    `cells` is the struct that kernels read. It has one field per part: its offset in bytes from the start of
    the scratch. In a kernel, `based(call.scratch, start of this thread's scratch)` turns the offsets into
    pointers. So one struct serves all threads.
    """

    def __init__(self, name: str, *parts: Part) -> None:
        self.parts = parts
        self.cells: Any = NamedTuple(name, [(part.name, part.kind) for part in parts])  # type: ignore[misc]
        self.place = functools.lru_cache(maxsize=1024)(self._place)  # used by every call

    def _place(self, sizes: Any) -> tuple[Any, int]:
        """(the cells, bytes of all parts). sizes: with `storage_bytes` and `number_bytes`, per element."""
        offsets, end = [], 0
        for part in self.parts:
            offsets.append(end)
            itemsize = sizes.storage_bytes if part.kind is Storage else sizes.number_bytes
            end += aligned(part.elements(sizes) * itemsize)
        return self.cells(*offsets), end
