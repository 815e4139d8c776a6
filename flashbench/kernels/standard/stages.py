"""Standard attention: scores materialised once, softmax in place, P kept for the backward pass.

The baseline that flash attention is measured against, made as fast as it can be: the same products,
the same exponential and the same threads. Each stage runs over the whole problem before the next
begins, as it does where a framework calls one operation after another; a hidden score is computed and then
masked, as it is there.

s and p: a slab of (seqlen_q, columns) for each sequence and head, columns being its keys with their padding.
What a product needs transposed is packed into an output that is not written until later, so that the scores
are all the workspace there is.
"""

from __future__ import annotations

from numba import njit

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.compiled import compiled
from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.call.features import DIAGONAL, SEQLEN_K, SEQLEN_Q
from flashbench.kernels.call.visibility import all_finite_once, clear_rows
from flashbench.kernels.products.fma import multiply
from flashbench.kernels.row.features import softcap_gradient_row
from flashbench.kernels.row.masks import add_visible_keys, add_visible_queries, visible_range
from flashbench.kernels.standard.rows import (
    COLUMNS,
    DK,
    DMASK,
    DO,
    DP,
    DQ,
    DROPPED,
    DV,
    LSE,
    TANH,
    K,
    O,
    P,
    Q,
    V,
    gradient_of_row,
    keys,
    mask_gradient,
    queries,
    sequence_row,
    slab,
    softmax_of_row,
)
from flashbench.kernels.tile.edit import pack

KEY_TILE = 128  # keys whose packed columns stay in the second-level cache
ROW_TILE = 64
DEPTH = 256  # rows of a product's right side that stay in the second-level cache

SCORES, SOFTMAX, OUTPUT = range(3)
P_GRADIENT, SCORE_GRADIENT, KEY_GRADIENTS, QUERY_GRADIENT = range(4)


@njit(nogil=True)
def product(a, a_row, a_col, x, x_row, c, c_row, rows, columns, depth, accumulate):
    """multiply() in slices of the depth, so that a slice of x serves all rows from the cache.

    The one caller of multiply(): every function that calls it has machine code of its own for it.
    """
    start = 0
    while True:
        multiply(
            at(a, start * a_col),
            a_row,
            a_col,
            at(x, start * x_row),
            x_row,
            c,
            c_row,
            rows,
            columns,
            min(DEPTH, depth - start),
            accumulate or start > 0,
        )
        start += DEPTH
        if start >= depth:
            return


@compiled
def standard_forward(
    zero,
    stage,
    table,
    sequences,
    features_at,
    numbers_at,
    hides,  # whether any pair is hidden, by whatever
    finite,  # address of a number for each v, zero at first, to note whether it is finite
    tickets,
    scratch,  # address of room for packed keys, of scratch_stride bytes a thread; 0: there is room in o
    scratch_stride,
    slot,
    longest,  # the most rows of q, or of padded k, of a sequence: the larger
    num_heads,
    group,
    head_dim,
    head_dim_v,
    factor,  # of q k^T, so that it is in units of log2, or natural ones, or the softcap's
    softcap,  # 0: none
    natural,
):
    """One stage of o = softmax(q @ k.T) @ v, until its tickets are out."""
    ticket, features, numbers = pointer(slot, tickets), pointer(slot, features_at), pointer(zero, numbers_at)
    tile = KEY_TILE if stage == SCORES else ROW_TILE
    tiles = (longest + tile - 1) // tile
    while True:
        task = take_ticket(ticket)
        if task >= len(sequences) * num_heads * tiles:
            return
        start = task % tiles * tile
        b = task // tiles // num_heads
        h = task // tiles % num_heads
        sequence = sequence_row(sequences, b)
        seqlen_q, columns = sequence[SEQLEN_Q], sequence[COLUMNS]
        rows = min(tile, (columns if stage == SCORES else seqlen_q) - start)
        if rows <= 0 or seqlen_q == 0:
            continue
        s = slab(zero, table, P, sequence, h)
        if stage == SCORES:
            q, q_row = queries(zero, table, Q, sequence, h), table[Q, 3]
            k = at(keys(zero, table, K, sequence, h // group), start * table[K, 3])
            kt = at(queries(zero, table, O, sequence, h), start * head_dim)
            if scratch != 0:
                kt = pointer(zero, scratch + slot * scratch_stride)
            pack(k, table[K, 3], rows, head_dim, kt, rows, factor)
            product(q, q_row, 1, kt, rows, at(s, start), columns, seqlen_q, rows, head_dim, False)
        elif stage == SOFTMAX:
            tanh, dropped = slab(zero, table, TANH, sequence, h), slab(zero, table, DROPPED, sequence, h)
            lse = queries(zero, table, LSE, sequence, h)
            for i in range(start, start + rows):
                softmax_of_row(
                    zero,
                    at(s, i * columns),
                    at(tanh, i * columns),
                    at(dropped, i * columns),
                    at(lse, i),
                    (b, h, i, sequence),
                    features,
                    numbers,
                    softcap,
                    natural,
                )
        else:
            p = at(slab(zero, table, DROPPED, sequence, h), start * columns)
            v, v_row, o_row = keys(zero, table, V, sequence, h // group), table[V, 3], table[O, 3]
            o = at(queries(zero, table, O, sequence, h), start * o_row)
            flag = pointer(slot, finite + 8 * (b * (num_heads // group) + h // group))
            if not hides or all_finite_once(flag, v, v_row, columns, head_dim_v):
                product(p, columns, 1, v, v_row, o, o_row, rows, head_dim_v, columns, False)
                continue
            clear_rows(o, o_row, rows, head_dim_v, zero)
            for r in range(rows):
                place = b, h, start + r, sequence
                add_visible_keys(
                    at(p, r * columns), v, v_row, at(o, r * o_row), head_dim_v, zero, features, place
                )


@compiled
def standard_backward(
    zero,
    stage,
    table,
    sequences,
    features_at,
    numbers_at,
    hides,
    finite,  # the same for each q, then each do, then each k
    tickets,
    slot,
    longest,
    num_heads,
    num_kv_heads,
    head_dim,
    head_dim_v,
    scale,
    softcap,
    sink_shares,  # address of float64 room for what each task of SCORE_GRADIENT adds to a sink's gradient
    mask_step,  # of dmask along the keys, 0 or 1; -1: it is not asked for
):
    """One stage of dq, dk and dv from the kept P, until its tickets are out."""
    ticket, features, numbers = pointer(slot, tickets), pointer(slot, features_at), pointer(zero, numbers_at)
    group = num_heads // num_kv_heads
    by_key = stage in (P_GRADIENT, KEY_GRADIENTS)
    tile = KEY_TILE if stage == P_GRADIENT else ROW_TILE
    tiles = (longest + tile - 1) // tile
    heads = num_kv_heads if by_key else num_heads
    while True:
        task = take_ticket(ticket)
        if task >= len(sequences) * heads * tiles:
            return
        start = task % tiles * tile
        b = task // tiles // heads
        h = task // tiles % heads
        sequence = sequence_row(sequences, b)
        seqlen_q, seqlen_k, columns = sequence[SEQLEN_Q], sequence[SEQLEN_K], sequence[COLUMNS]
        rows = min(tile, (columns if by_key else seqlen_q) - start)
        if rows <= 0:
            continue
        if stage == P_GRADIENT:
            # Forward: o = p @ v, so dp = do @ v.T. v.T is packed where dv will be.
            v, v_row = keys(zero, table, V, sequence, h), table[V, 3]
            vt = at(keys(zero, table, DV, sequence, h), start * table[DV, 3])
            pack(at(v, start * v_row), v_row, rows, head_dim_v, vt, rows, zero + 1)
            for head in range(h * group, (h + 1) * group):
                do, do_row = queries(zero, table, DO, sequence, head), table[DO, 3]
                dp = at(slab(zero, table, DP, sequence, head), start)
                product(do, do_row, 1, vt, rows, dp, columns, seqlen_q, rows, head_dim_v, False)
        elif stage == SCORE_GRADIENT:
            share, now = 0.0, scale if mask_step < 0 else zero + 1
            dp, p = slab(zero, table, DP, sequence, h), slab(zero, table, P, sequence, h)
            tanh, dropped = slab(zero, table, TANH, sequence, h), slab(zero, table, DROPPED, sequence, h)
            lse = queries(zero, table, LSE, sequence, h)
            for i in range(start, start + rows):
                share += gradient_of_row(
                    zero,
                    at(dp, i * columns),
                    at(p, i * columns),
                    at(dropped, i * columns),
                    at(lse, i),
                    (b, h, i, sequence),
                    features,
                    numbers,
                    now,
                )
                if softcap != 0 and mask_step < 0:
                    first, end = visible_range(features, i, seqlen_k, sequence[DIAGONAL])
                    place = i * columns + first
                    softcap_gradient_row(at(dp, place), at(tanh, place), end - first)
            at(pointer(0.0, sink_shares), task)[0] = share
        elif stage == KEY_GRADIENTS:
            # Forward: o = p @ v, so dv = p.T @ do; s = q @ k.T, so dk = ds.T @ q.
            dk_row, dv_row, do_row, q_row = table[DK, 3], table[DV, 3], table[DO, 3], table[Q, 3]
            dk = at(keys(zero, table, DK, sequence, h), start * dk_row)
            dv = at(keys(zero, table, DV, sequence, h), start * dv_row)
            for head in range(h * group, (h + 1) * group):
                more = head > h * group
                p = at(slab(zero, table, DROPPED, sequence, head), start)
                ds = at(slab(zero, table, DP, sequence, head), start)
                do, q = queries(zero, table, DO, sequence, head), queries(zero, table, Q, sequence, head)
                of_q = pointer(slot, finite + 8 * (b * num_heads + head))
                of_do = at(of_q, len(sequences) * num_heads)
                if not hides or (
                    all_finite_once(of_q, q, q_row, seqlen_q, head_dim)
                    and all_finite_once(of_do, do, do_row, seqlen_q, head_dim_v)
                ):
                    product(p, 1, columns, do, do_row, dv, dv_row, rows, head_dim_v, seqlen_q, more)
                    product(ds, 1, columns, q, q_row, dk, dk_row, rows, head_dim, seqlen_q, more)
                    continue
                if not more:
                    clear_rows(dv, dv_row, rows, head_dim_v, zero)
                    clear_rows(dk, dk_row, rows, head_dim, zero)
                for j in range(rows):
                    place = b, head, start + j, sequence
                    add_visible_queries(
                        at(p, j), columns, do, do_row, at(dv, j * dv_row), head_dim_v, zero, features, place
                    )
                    add_visible_queries(
                        at(ds, j), columns, q, q_row, at(dk, j * dk_row), head_dim, zero, features, place
                    )
        else:
            # Forward: s = q @ k.T, so dq = ds @ k.
            k, k_row, dq_row = keys(zero, table, K, sequence, h // group), table[K, 3], table[DQ, 3]
            ds = at(slab(zero, table, DP, sequence, h), start * columns)
            dq = at(queries(zero, table, DQ, sequence, h), start * dq_row)
            number = 2 * len(sequences) * num_heads + b * num_kv_heads + h // group
            if not hides or all_finite_once(pointer(slot, finite + 8 * number), k, k_row, columns, head_dim):
                product(ds, columns, 1, k, k_row, dq, dq_row, rows, head_dim, columns, False)
                continue
            clear_rows(dq, dq_row, rows, head_dim, zero)
            for r in range(rows):
                place = b, h, start + r, sequence
                add_visible_keys(
                    at(ds, r * columns), k, k_row, at(dq, r * dq_row), head_dim, zero, features, place
                )


@compiled
def standard_mask_gradient(
    zero,
    table,
    sequences,
    features_at,
    tickets,
    slot,
    num_heads,
    seqlen_q,
    seqlen_k,
    scale,
    softcap,
    mask_step,
):
    """dmask from ds, between standard_backward's SCORE_GRADIENT and the products with ds.

    A task is a piece of dmask with all that was broadcast to it, so that it is added up in one order by one
    thread: along the queries in tiles, or else along the keys.
    """
    ticket, features = pointer(slot, tickets), pointer(slot, features_at)
    batches = len(sequences) if table[DMASK, 1] else 1
    heads = num_heads if table[DMASK, 2] else 1
    by_query, by_key = table[DMASK, 3] != 0, mask_step != 0
    tiles = 1
    if by_query:
        tiles = (seqlen_q + ROW_TILE - 1) // ROW_TILE
    elif by_key:
        tiles = (seqlen_k + KEY_TILE - 1) // KEY_TILE
    while True:
        task = take_ticket(ticket)
        if task >= batches * heads * tiles:
            return
        tile = task % tiles
        b, h = task // tiles // heads, task // tiles % heads
        sequence_part = (b, b + 1) if table[DMASK, 1] else (0, len(sequences))
        head_part = (h, h + 1) if table[DMASK, 2] else (0, num_heads)
        query_part = (tile * ROW_TILE, (tile + 1) * ROW_TILE) if by_query else (0, seqlen_q)
        key_part = (0, seqlen_k) if by_query or not by_key else (tile * KEY_TILE, (tile + 1) * KEY_TILE)
        part = sequence_part + head_part + query_part + key_part
        mask_gradient(zero, table, sequences, features, mask_step, part, softcap, scale)
