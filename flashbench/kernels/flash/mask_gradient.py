"""The gradient of an additive mask: dmask = ds, summed along the axes on which the mask is broadcast.

A separate kernel, run only on request. Each task owns a piece of the mask. It recomputes ds for all batch
entries, heads, queries or keys that share these entries, in a fixed order. So the sums do not depend on the
number of threads, and the only seqlen_q x seqlen_k array is the gradient itself.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import element_types
from flashbench.codegen.pointers import at, pointer
from flashbench.codegen.steps import step
from flashbench.codegen.structs import view
from flashbench.dtypes import Dtype
from flashbench.kernels.call.arrays import rows_at, rows_from, sequence_at, thread_scratch
from flashbench.kernels.call.masks import HIDDEN
from flashbench.kernels.call.structs import Array, Features, Numbers, Sizes, Work
from flashbench.kernels.call.tiles import keys_at, tile_at, whole_vectors
from flashbench.kernels.call.visibility import put_limits
from flashbench.kernels.flash.scratch import MASK_GRADIENT
from flashbench.kernels.flash.tile_steps import put_alibi, put_rows, tile_gradients, tile_scores
from flashbench.kernels.products import Product


class MaskShape(NamedTuple):
    """The shape of the mask; 1 on an axis on which it is broadcast."""

    batch: int
    heads: int
    queries: int
    keys: int


class MaskGradientCall(NamedTuple):
    """The arguments of one call, shared by its threads.

    dmask: contiguous, initially zero. work.tickets: the counter of pieces.
    """

    q: Array
    k: Array
    v: Array
    o: Array
    do: Array
    lse: Numbers
    dmask: Numbers
    shape: MaskShape
    scratch: MASK_GRADIENT.cells  # type: ignore[name-defined]
    sizes: Sizes
    work: Work
    features: Features


class _Piece(NamedTuple):
    """The mask entries of one task: its batch entry, head, and first query and key of a tile.

    On a broadcast axis the piece has the mask's only entry.
    """

    b: Any
    h: Any
    first_query: Any
    first_key: Any


@functools.cache
def flash_mask_gradient(product: Product, dtype: Dtype) -> Any:
    """The compiled kernel. Arguments: see `flash_forward`, with a `MaskGradientCall`."""
    storage, number = element_types(dtype)

    def flash_mask_gradient(address, slot):
        state = product.begin()
        work_on_pieces(product, view(MaskGradientCall, storage, number, address), slot)
        product.end(state)

    return compiled(flash_mask_gradient, variant=f"{product.name}.{dtype}")


@step
def work_on_pieces(product, call, slot):
    """Take pieces of the mask from the shared counter until none is left."""
    scratch = thread_scratch(call, slot)
    shape, block_q, block_k = call.shape, call.sizes.block_q, call.sizes.block_k
    q_pieces = (shape.queries + block_q - 1) // block_q
    k_pieces = (shape.keys + block_k - 1) // block_k
    while True:
        task = take_ticket(call.work.tickets)
        if task >= shape.batch * shape.heads * q_pieces * k_pieces:
            return
        k_piece, rest = task % k_pieces, task // k_pieces
        q_piece, rest = rest % q_pieces, rest // q_pieces
        piece = _Piece(rest // shape.heads, rest % shape.heads, q_piece * block_q, k_piece * block_k)
        for place in range(block_k * whole_vectors(call, block_q)):
            at(scratch.total, place)[0] = call.zero
        add_all(product, call, scratch, piece)
        put_total(call, scratch, piece)


@step
def add_all(product, call, scratch, piece):
    """Add ds of all tiles that share the piece's entries to scratch.total."""
    shape, block_q = call.shape, call.sizes.block_q
    batches = (piece.b, piece.b + 1) if shape.batch > 1 else (0, call.work.sequence_count)
    heads = (piece.h, piece.h + 1) if shape.heads > 1 else (0, call.sizes.num_heads)
    for b in range(*batches):
        first, end = 0, sequence_at(call, b).seqlen_q
        if shape.queries > 1:
            first, end = piece.first_query, min(end, piece.first_query + block_q)
        for h in range(*heads):
            for start in range(first, end, block_q):
                add_queries(
                    product, call, scratch, tile_at(call, b, h, start, min(block_q, end - start)), piece
                )


@step
def add_queries(product, call, scratch, queries, piece):
    """Add ds of one tile of queries to scratch.total."""
    block_k = call.sizes.block_k
    first, end = queries.first_key, queries.end_key
    if call.shape.keys > 1:
        first, end = max(first, piece.first_key), min(end, piece.first_key + block_k)
    if first >= end:
        return
    sequence, h = queries.sequence, queries.h
    batch, kv, query = sequence.batch, h // call.sizes.group, sequence.first_query + queries.start
    q, do = rows_at(call.q, batch, h, query), rows_at(call.do, batch, h, query)
    o, lse = rows_at(call.o, batch, h, query), rows_at(call.lse, batch, h, query)
    k, v = rows_at(call.k, batch, kv, sequence.first_key), rows_at(call.v, batch, kv, sequence.first_key)
    product.pack(q, queries.rows, call.sizes.head_dim, scratch.qt, queries.lanes, call.features.q_factor)
    put_rows(product, call, scratch, queries, do, o, lse, call.zero + 1)
    if call.features.alibi:
        put_alibi(scratch, queries, call.features)
    put_limits(scratch, queries, call.features)
    # Tiles begin at multiples of block_k, as pieces do: the tile's first key is the first key of `total`.
    for start in range(first // block_k * block_k, end, block_k):
        keys = keys_at(call, queries, 0, start, end)
        if keys.shown != HIDDEN:
            nowhere = pointer(call.zero, 0)
            k_tile = product.keys(rows_from(k, start), keys.rows, call.sizes.head_dim, scratch.k)
            v_tile = product.keys(rows_from(v, start), keys.rows, call.sizes.head_dim_v, scratch.v)
            factor = tile_scores(product, call, scratch, scratch.p, queries, keys, k_tile, nowhere)
            tile_gradients(product, call, scratch, queries, keys, v_tile, factor)
            add_tile(call, scratch, queries, keys)


@step
def add_tile(call, scratch, queries, keys):
    """total += ds. Padded lanes have p = 0, so they add 0."""
    row = whole_vectors(call, call.sizes.block_q)
    for j in range(keys.rows):
        for lane in range(queries.lanes):
            at(scratch.total, j * row + lane)[0] += at(scratch.ds, j * queries.lanes + lane)[0]


@step
def put_total(call, scratch, piece):
    """Add scratch.total to the piece of dmask, summed along broadcast axes."""
    shape, block_q, block_k = call.shape, call.sizes.block_q, call.sizes.block_k
    row = whole_vectors(call, block_q)
    dmask = rows_at(call.dmask, piece.b, piece.h, 0)
    for j in range(block_k):
        key = piece.first_key + j if shape.keys > 1 else 0
        for lane in range(row):
            query = piece.first_query + lane if shape.queries > 1 else 0
            if key < shape.keys and query < shape.queries and (shape.queries == 1 or lane < block_q):
                at(dmask.at, query * dmask.row + key)[0] += at(scratch.total, j * row + lane)[0]
