"""The visible keys of each query in a mask: the first, the last and their number, in one pass."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import element_types
from flashbench.codegen.pointers import at, number_at, pointer
from flashbench.dtypes import Dtype


@functools.cache
def row_extents(dtype: Dtype | None) -> Any:
    """The compiled kernel for masks of this dtype; None: of bools."""
    storage = types.uint8 if dtype is None else element_types(dtype)[0]

    def row_extents(hides, lowest, place, rows_seen, keys_seen):
        """Write the visible range of each query. Returns (adds, doubtful).

        An entry hides if it is <= `hides`; -inf always hides, NaN never does. adds: some visible entry is
        not 0, so the mask also adds numbers. doubtful: some entry hides but is not `lowest`, the value that
        certainly means hidden. Both are of the type that kernels read from such a mask.

        place: the mask's address, its shape (batch, heads, queries, keys), and its first three strides, in
        elements. The stride of keys is 1. rows_seen: int32, (3, batch * heads * queries): first visible key
        (`keys`: none), last visible key (-1: none), number of visible keys. keys_seen: uint8,
        (batch * heads, keys), initially 0; becomes 1 for a key that is visible to any query.
        """
        address, batch, heads, queries, keys, by_batch, by_head, by_query = place
        end = np.int32(keys)
        adds, doubtful = False, False
        for sequence in range(batch * heads):
            b, h = divmod(sequence, heads)
            column = keys_seen[sequence]
            for i in range(queries):
                row = at(pointer(storage, address), b * by_batch + h * by_head + i * by_query)
                # All variables have 32 bits and there is no branch, so that LLVM vectorises the loop.
                first, last, count = end, np.int32(-1), np.int32(0)
                row_adds, row_doubtful = np.int32(0), np.int32(0)
                for key in range(end):
                    x = number_at(row, key)
                    hidden = x <= hides
                    seen = np.int32(not hidden)
                    j = np.int32(key)
                    first = min(first, j if seen else end)
                    last = max(last, j if seen else np.int32(-1))
                    count += seen
                    row_adds |= np.int32((not hidden) & (x != 0))
                    row_doubtful |= np.int32(hidden & (x != lowest))
                    column[key] |= np.uint8(seen)
                at_row = sequence * queries + i
                rows_seen[0, at_row] = first
                rows_seen[1, at_row] = last
                rows_seen[2, at_row] = count
                adds |= row_adds != 0
                doubtful |= row_doubtful != 0
        return adds, doubtful

    return compiled(row_extents, variant=dtype or "bool")
