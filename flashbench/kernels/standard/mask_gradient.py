"""dmask from ds: a stage between SCORE_GRADIENT and the products with ds.

A task is a piece of dmask: a tile of queries, or of keys if the mask is broadcast along the queries. One
thread adds all ds of a piece in a fixed order, so the sums do not depend on the number of threads.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import element_types
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import view
from flashbench.dtypes import Dtype
from flashbench.kernels.call.arrays import rows_at
from flashbench.kernels.row.features import scale_row, softcap_gradient_row
from flashbench.kernels.row.masks import Row, visible_range
from flashbench.kernels.standard.call import StandardCall, slab, slab_sequence_at
from flashbench.kernels.standard.stages import KEY_TILE, MASK_GRADIENT, ROW_TILE


class _Piece(NamedTuple):
    """The ds that one task adds up: (first, end) along each axis."""

    sequences: Any
    heads: Any
    queries: Any
    keys: Any


@functools.cache
def standard_mask_gradient(dtype: Dtype) -> Any:
    """The compiled kernel: kernel(address, slot, seqlen_q, seqlen_k), with the longest sequence's lengths."""
    storage, number = element_types(dtype)

    def standard_mask_gradient(address, slot, seqlen_q, seqlen_k):
        add_pieces(view(StandardCall, storage, number, address), seqlen_q, seqlen_k)

    return compiled(standard_mask_gradient, variant=dtype)


@step
def add_pieces(call, seqlen_q, seqlen_k):
    """Add ds to dmask, piece by piece, until none is left."""
    batches = call.work.sequence_count if call.dmask.batch else 1
    heads = call.sizes.num_heads if call.dmask.head else 1
    by_query, by_key = call.dmask.row != 0, call.stages.mask_step != 0
    tiles = 1
    if by_query:
        tiles = (seqlen_q + ROW_TILE - 1) // ROW_TILE
    elif by_key:
        tiles = (seqlen_k + KEY_TILE - 1) // KEY_TILE
    while True:
        task = take_ticket(at(call.work.tickets, MASK_GRADIENT))
        if task >= batches * heads * tiles:
            return
        tile = task % tiles
        b, h = task // tiles // heads, task // tiles % heads
        piece = _Piece(
            (b, b + 1) if call.dmask.batch else (0, call.work.sequence_count),
            (h, h + 1) if call.dmask.head else (0, call.sizes.num_heads),
            (tile * ROW_TILE, (tile + 1) * ROW_TILE) if by_query else (0, seqlen_q),
            (0, seqlen_k) if by_query or not by_key else (tile * KEY_TILE, (tile + 1) * KEY_TILE),
        )
        add_piece(call, piece)


@step
def add_piece(call, piece):
    """Add ds of a piece to dmask. Then ds becomes the gradient of q k^T: times scale, through softcap.

    dmask has strides of 0 on broadcast axes, so that values there add up in the order of this loop.
    """
    for b in range(piece.sequences[0], piece.sequences[1]):
        sequence = slab_sequence_at(call, b)
        for h in range(piece.heads[0], piece.heads[1]):
            dmask = rows_at(call.dmask, b, h, 0)
            for i in range(piece.queries[0], min(piece.queries[1], sequence.seqlen_q)):
                row = Row(sequence, b, h, i)
                first, end = visible_range(row, call.features)
                first, end = max(first, piece.keys[0]), min(end, piece.keys[1])
                if first < end:
                    add_row(call, row, at(dmask.at, i * dmask.row), first, end)


@step
def add_row(call, row, target, first, end):
    place = row.i * row.sequence.columns
    ds = at(slab(call.scores.dp, row.sequence, row.h), place)
    if call.stages.mask_step == 0:
        total = 0.0
        for j in range(first, end):
            total += at(ds, j)[0]
        target[0] += total
    else:
        for j in range(first, end):
            at(target, j)[0] += at(ds, j)[0]
    scale_row(at(ds, first), end - first, call.features.scale)
    if call.features.cap != 0:
        tanh = at(slab(call.scores.tanh, row.sequence, row.h), place + first)
        softcap_gradient_row(at(ds, first), tanh, end - first)
