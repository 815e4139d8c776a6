"""Standard attention: scores materialised once, softmax in place, P kept for the backward pass.

This is the baseline for flash attention, as fast as we can make it: it has the same products, exponential and
threads. Each stage runs over the whole problem before the next begins, as in a framework that calls one
operation after another. A hidden score is computed first and then masked, as in a framework.

If a product needs a transposed matrix, it is packed into an output array that is written only later. So the
scores are the only workspace. An output of a 16-bit dtype has no room for that: access.py says what takes
its place.
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
from flashbench.kernels.call.arrays import rows_from, thread_scratch
from flashbench.kernels.call.visibility import all_finite_once, clear_rows
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.fma import multiply
from flashbench.kernels.products.pack import pack
from flashbench.kernels.row.features import softcap_gradient_row
from flashbench.kernels.row.masks import Row, add_visible_keys, add_visible_queries, visible_range
from flashbench.kernels.standard.access import access_of
from flashbench.kernels.standard.call import StandardCall, key_rows, query_rows, slab, slab_sequence_at
from flashbench.kernels.standard.rows import gradient_of_row, softmax_of_row

KEY_TILE = 128  # keys whose packed columns stay in the second-level cache
ROW_TILE = 64
DEPTH = 256  # rows of a product's right side that stay in the second-level cache

# The stages, in the order in which they run. The number is the index of the stage's ticket counter.
SCORES, SOFTMAX, OUTPUT = range(3)
P_GRADIENT, SCORE_GRADIENT, MASK_GRADIENT, KEY_GRADIENTS, QUERY_GRADIENT = range(5)
STAGES = 5


class _Thread(NamedTuple):
    """What stays the same in all tasks of a thread."""

    access: Any  # how to read and write rows of the storage type
    scratch: Any  # `ROOMS`


class _Tile(NamedTuple):
    """A tile of rows (queries) or of columns (keys) of one head's scores."""

    sequence: Any
    b: Any
    h: Any
    start: Any
    rows: Any


@step
def multiply_once(a, a_row, a_col, x, sums, rows, columns, depth, accumulate):
    """multiply(). Only this step calls it: LLVM makes separate machine code for each step that does."""
    multiply(a, a_row, a_col, x, sums, rows, columns, depth, accumulate)


@step
def multiply_in_slices(thread, a, a_row, a_col, x, sums, rows, columns, depth, accumulate):
    """sums (+)= a @ x in slices of the depth, so that a slice of x stays in the cache for all rows."""
    start = 0
    while True:
        count, more = min(DEPTH, depth - start), accumulate or start > 0
        part = thread.access.operand(rows_from(x, start), count, columns, thread.scratch.operand)
        multiply_once(at(a, start * a_col), a_row, a_col, part, sums, rows, columns, count, more)
        start += DEPTH
        if start >= depth:
            return


@step
def multiply_with_packed(thread, x, packed, s, rows, columns, depth):
    """s = x @ packed, some rows of x at a time. x: rows of the storage type."""
    for first in range(0, rows, thread.access.most_rows):
        count = min(thread.access.most_rows, rows - first)
        a = thread.access.operand(rows_from(x, first), count, depth, thread.scratch.operand)
        multiply_once(a.at, a.row, 1, packed, rows_from(s, first), count, columns, depth, False)


@step
def tile_of(call, task, tile, heads, by_key):
    """The tile of a task. Tasks are numbered by sequence, then head, then tile. A tile may have no rows."""
    tiles = (call.stages.longest + tile - 1) // tile
    start, b, h = task % tiles * tile, task // tiles // heads, task // tiles % heads
    sequence = slab_sequence_at(call, b)
    rows = min(tile, (sequence.columns if by_key else sequence.seqlen_q) - start)
    return _Tile(sequence, b, h, start, rows)


@step
def tasks_of(call, tile, heads):
    return call.work.sequence_count * heads * ((call.stages.longest + tile - 1) // tile)


@functools.cache
def standard_forward(dtype: Dtype) -> Any:
    """The compiled kernel: kernel(address, slot, stage). address: of the `StandardCall`."""
    storage, number = element_types(dtype)
    access = access_of(dtype)

    def standard_forward(address, slot, stage):
        run_forward_stage(access, view(StandardCall, storage, number, address), slot, stage)

    return compiled(standard_forward, variant=dtype)


@step
def run_forward_stage(access, call, slot, stage):
    """Run one stage of o = softmax(q @ k.T) @ v until no task of it is left."""
    thread = _Thread(access, thread_scratch(call, slot))
    tile, heads = KEY_TILE if stage == SCORES else ROW_TILE, call.sizes.num_heads
    while True:
        task = take_ticket(at(call.work.tickets, stage))
        if task >= tasks_of(call, tile, heads):
            return
        work = tile_of(call, task, tile, heads, stage == SCORES)
        if work.rows <= 0 or work.sequence.seqlen_q == 0:
            continue
        if stage == SCORES:
            put_scores(thread, call, work)
        elif stage == SOFTMAX:
            put_softmax(call, work)
        else:
            put_output(thread, call, work)


@step
def put_scores(thread, call, work):
    """Compute a tile of columns of s = q @ k.T."""
    sequence, h, head_dim = work.sequence, work.h, call.sizes.head_dim
    q = query_rows(call.q, sequence, h, 0)
    k = key_rows(call.k, sequence, h // call.sizes.group, work.start)
    room = at(query_rows(call.o, sequence, h, 0).at, work.start * head_dim)
    kt = thread.access.packed(room, call.stages.packs_apart, thread.scratch.packed)
    pack(k.at, k.row, work.rows, head_dim, kt, work.rows, call.stages.factor)
    s = Matrix(at(slab(call.scores.p, sequence, h), work.start), sequence.columns)
    multiply_with_packed(thread, q, Matrix(kt, work.rows), s, sequence.seqlen_q, work.rows, head_dim)


@step
def put_softmax(call, work):
    """Compute p and lse of a tile of rows."""
    sequence, h = work.sequence, work.h
    s, tanh = slab(call.scores.p, sequence, h), slab(call.scores.tanh, sequence, h)
    dropped, lse = slab(call.scores.dropped, sequence, h), query_rows(call.lse, sequence, h, 0)
    for i in range(work.start, work.start + work.rows):
        place = i * sequence.columns
        row = Row(sequence, work.b, h, i)
        softmax_of_row(call, row, at(s, place), at(tanh, place), at(dropped, place), at(lse.at, i))


@step
def put_output(thread, call, work):
    """Compute a tile of rows of o = p @ v."""
    sequence, h, columns = work.sequence, work.h, work.sequence.columns
    kv, head_dim_v = h // call.sizes.group, call.sizes.head_dim_v
    p = at(slab(call.scores.dropped, sequence, h), work.start * columns)
    v, o = key_rows(call.v, sequence, kv, 0), query_rows(call.o, sequence, h, work.start)
    note = at(call.work.finite, work.b * call.sizes.num_kv_heads + kv)
    sums = thread.access.sums(o, head_dim_v, thread.scratch.sums)
    if not call.stages.hides or all_finite_once(note, v, columns, head_dim_v):
        multiply_in_slices(thread, p, columns, 1, v, sums, work.rows, head_dim_v, columns, False)
    else:
        add_rows_of_keys(call, work, p, v, sums, head_dim_v)
    thread.access.put(o, sums, work.rows, head_dim_v)


@step
def add_rows_of_keys(call, work, p, x, sums, columns):
    """sums = p @ x over visible pairs only, row by row."""
    clear_rows(sums, work.rows, columns, call.zero)
    for r in range(work.rows):
        row = Row(work.sequence, work.b, work.h, work.start + r)
        p_row, target = at(p, r * work.sequence.columns), at(sums.at, r * sums.row)
        add_visible_keys(p_row, x, target, columns, row, call.features)


@functools.cache
def standard_backward(dtype: Dtype) -> Any:
    """The compiled kernel: kernel(address, slot, stage). address: of the `StandardCall`."""
    storage, number = element_types(dtype)
    access = access_of(dtype)

    def standard_backward(address, slot, stage):
        run_backward_stage(access, view(StandardCall, storage, number, address), slot, stage)

    return compiled(standard_backward, variant=dtype)


@step
def run_backward_stage(access, call, slot, stage):
    """Run one stage of dq, dk and dv from the kept P until no task of it is left."""
    thread = _Thread(access, thread_scratch(call, slot))
    by_key = stage in (P_GRADIENT, KEY_GRADIENTS)
    tile = KEY_TILE if stage == P_GRADIENT else ROW_TILE
    heads = call.sizes.num_kv_heads if by_key else call.sizes.num_heads
    while True:
        task = take_ticket(at(call.work.tickets, stage))
        if task >= tasks_of(call, tile, heads):
            return
        work = tile_of(call, task, tile, heads, by_key)
        if work.rows <= 0:
            continue
        if stage == P_GRADIENT:
            put_p_gradient(thread, call, work)
        elif stage == SCORE_GRADIENT:
            put_score_gradient(call, work, task)
        elif stage == KEY_GRADIENTS:
            put_key_gradients(thread, call, work)
        else:
            put_query_gradient(thread, call, work)


@step
def put_p_gradient(thread, call, work):
    """Compute a tile of columns of dp. Forward: o = p @ v, so dp = do @ v.T. Packed v.T may lie in dv."""
    sequence, h, group, columns = work.sequence, work.h, call.sizes.group, work.sequence.columns
    head_dim_v = call.sizes.head_dim_v
    v, dv = key_rows(call.v, sequence, h, work.start), key_rows(call.dv, sequence, h, work.start)
    vt = thread.access.packed(dv.at, False, thread.scratch.packed)
    pack(v.at, v.row, work.rows, head_dim_v, vt, work.rows, call.zero + 1)
    for head in range(h * group, (h + 1) * group):
        do = query_rows(call.do, sequence, head, 0)
        dp = Matrix(at(slab(call.scores.dp, sequence, head), work.start), columns)
        packed = Matrix(vt, work.rows)
        multiply_with_packed(thread, do, packed, dp, sequence.seqlen_q, work.rows, head_dim_v)


@step
def put_score_gradient(call, work, task):
    """Compute a tile of rows of ds, and its share of the sink's gradient."""
    sequence, h = work.sequence, work.h
    keeps_units = call.stages.mask_step >= 0  # dmask needs ds unscaled; MASK_GRADIENT scales it later
    scale = call.zero + 1 if keeps_units else call.features.scale
    dp, p = slab(call.scores.dp, sequence, h), slab(call.scores.p, sequence, h)
    tanh, dropped = slab(call.scores.tanh, sequence, h), slab(call.scores.dropped, sequence, h)
    lse = query_rows(call.lse, sequence, h, 0)
    share = 0.0
    for i in range(work.start, work.start + work.rows):
        place, row = i * sequence.columns, Row(sequence, work.b, h, i)
        share += gradient_of_row(
            call, row, at(dp, place), at(p, place), at(dropped, place), at(lse.at, i), scale
        )
        if call.features.cap != 0 and not keeps_units:
            first, end = visible_range(row, call.features)
            softcap_gradient_row(at(dp, place + first), at(tanh, place + first), end - first)
    at(pointer(0.0, call.stages.sink_shares), task)[0] = share


@step
def put_key_gradients(thread, call, work):
    """Compute a tile of rows of dk and dv.

    Forward: o = p @ v, so dv = p.T @ do; s = q @ k.T, so dk = ds.T @ q.
    """
    sequence, h, group, columns = work.sequence, work.h, call.sizes.group, work.sequence.columns
    head_dim, head_dim_v = call.sizes.head_dim, call.sizes.head_dim_v
    dk_rows, dv_rows = key_rows(call.dk, sequence, h, work.start), key_rows(call.dv, sequence, h, work.start)
    dv = thread.access.sums(dv_rows, head_dim_v, thread.scratch.sums)
    dk = thread.access.sums(dk_rows, head_dim, at(thread.scratch.sums, work.rows * head_dim_v))
    for head in range(h * group, (h + 1) * group):
        more = head > h * group
        p = at(slab(call.scores.dropped, sequence, head), work.start)
        ds = at(slab(call.scores.dp, sequence, head), work.start)
        do, q = query_rows(call.do, sequence, head, 0), query_rows(call.q, sequence, head, 0)
        if queries_are_finite(call, work, head, q, do):
            seqlen_q = sequence.seqlen_q
            multiply_in_slices(thread, p, 1, columns, do, dv, work.rows, head_dim_v, seqlen_q, more)
            multiply_in_slices(thread, ds, 1, columns, q, dk, work.rows, head_dim, seqlen_q, more)
            continue
        if not more:
            clear_rows(dv, work.rows, head_dim_v, call.zero)
            clear_rows(dk, work.rows, head_dim, call.zero)
        for j in range(work.rows):
            key = Row(sequence, work.b, head, work.start + j)
            dv_row, dk_row = at(dv.at, j * dv.row), at(dk.at, j * dk.row)
            add_visible_queries(at(p, j), columns, do, dv_row, head_dim_v, key, call.features)
            add_visible_queries(at(ds, j), columns, q, dk_row, head_dim, key, call.features)
    thread.access.put(dv_rows, dv, work.rows, head_dim_v)
    thread.access.put(dk_rows, dk, work.rows, head_dim)


@step
def queries_are_finite(call, work, head, q, do):
    """Whether the products with a head's q and do are exact: no pair is hidden, or q and do are finite."""
    if not call.stages.hides:
        return True
    of_q = at(call.work.finite, work.b * call.sizes.num_heads + head)
    of_do = at(of_q, call.work.sequence_count * call.sizes.num_heads)
    seqlen_q = work.sequence.seqlen_q
    return all_finite_once(of_q, q, seqlen_q, call.sizes.head_dim) and all_finite_once(
        of_do, do, seqlen_q, call.sizes.head_dim_v
    )


@step
def put_query_gradient(thread, call, work):
    """Compute a tile of rows of dq. Forward: s = q @ k.T, so dq = ds @ k."""
    sequence, h, columns = work.sequence, work.h, work.sequence.columns
    kv, head_dim = h // call.sizes.group, call.sizes.head_dim
    k, dq = key_rows(call.k, sequence, kv, 0), query_rows(call.dq, sequence, h, work.start)
    ds = at(slab(call.scores.dp, sequence, h), work.start * columns)
    of_k = 2 * call.work.sequence_count * call.sizes.num_heads + work.b * call.sizes.num_kv_heads + kv
    sums = thread.access.sums(dq, head_dim, thread.scratch.sums)
    if not call.stages.hides or all_finite_once(at(call.work.finite, of_k), k, columns, head_dim):
        multiply_in_slices(thread, ds, columns, 1, k, sums, work.rows, head_dim, columns, False)
    else:
        add_rows_of_keys(call, work, ds, k, sums, head_dim)
    thread.access.put(dq, sums, work.rows, head_dim)
