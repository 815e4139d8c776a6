"""What a mask lets each query see: the first key, the last one and how many, in one pass over its numbers."""

from __future__ import annotations

import numpy as np

from flashbench.codegen.compiled import compiled
from flashbench.codegen.pointers import at, pointer


@compiled
def row_extents(hides, lowest, place, rows_seen, keys_seen):
    """Write what a mask lets through; returns whether it adds other numbers, and whether it hides by others.

    An entry hides if it is `hides` or less; -inf does in any case, and a NaN does not. Others than 0 are
    numbers that are added. lowest: what hides beyond doubt, in the mask's dtype, as `hides` is.
    place: the mask's address, (batch, heads, queries, keys), and its strides in elements but for the last,
    which is 1. rows_seen: (3, batch * heads * queries) of int32, the first key seen (`keys`: none), the last
    (-1: none) and how many. keys_seen: (batch * heads, keys) of uint8, zeros; 1 for keys that any query sees.
    """
    address, batch, heads, queries, keys, by_batch, by_head, by_query = place
    end = np.int32(keys)
    adds, doubtful = False, False
    for sequence in range(batch * heads):
        b, h = divmod(sequence, heads)
        column = keys_seen[sequence]
        for i in range(queries):
            row = at(pointer(hides, address), b * by_batch + h * by_head + i * by_query)
            # All of 32 bits and without a branch, so that it runs in vectors.
            first, last, count = end, np.int32(-1), np.int32(0)
            row_adds, row_doubtful = np.int32(0), np.int32(0)
            for key in range(end):
                x = at(row, key)[0]
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
