"""Standard attention: scores materialised once, softmax in place, P kept for the backward pass.

The baseline that flash attention is measured against, made as fast as it can be: the same products,
the same exponential and the same threads. Each stage runs over the whole problem before the next
begins, as it does where a framework calls three operations; a hidden score is computed and then
masked, as it is there.

s and p: (batch, num_heads, seqlen_q, seqlen_k). What a product needs transposed is packed into an
output that is not written until later, so that the scores are all the workspace there is.
"""

from __future__ import annotations

import math

from numba import njit

from flashbench.kernels.compiled import compiled
from flashbench.kernels.matmul import multiply
from flashbench.kernels.memory import at, pointer, take_ticket
from flashbench.kernels.rows import gradient_row, softmax_row
from flashbench.kernels.tiles import all_finite, pack
from flashbench.kernels.visibility import keys_seen

LN2 = math.log(2.0)
KEY_TILE = 128  # keys whose packed columns stay in the second-level cache
ROW_TILE = 64
DEPTH = 256  # rows of a product's right side that stay in the second-level cache

# Rows of the tables of arrays: (address, batch stride, head stride, row stride), the row's in elements.
Q, K, V, O, LSE, P, DP, DO, DQ, DK, DV = range(11)
SCORES, SOFTMAX, OUTPUT = range(3)
P_GRADIENT, SCORE_GRADIENT, KEY_GRADIENTS, QUERY_GRADIENT = range(4)


@njit(nogil=True)
def slab(zero, table, array, b, h):
    """Pointer to one head of an array."""
    return pointer(zero, table[array, 0] + b * table[array, 1] + h * table[array, 2])


@njit(nogil=True)
def product(a, a_row, a_col, x, x_row, c, c_row, rows, columns, depth, accumulate):
    """multiply() in slices of the depth, so that a slice of x serves all rows from the cache."""
    for start in range(0, depth, DEPTH):
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


@compiled
def standard_forward(
    zero,
    stage,
    table,
    tickets,
    scratch,  # address of room for packed keys, of scratch_stride bytes a thread; 0: there is room in o
    scratch_stride,
    slot,
    batch,
    num_heads,
    group,
    seqlen_q,
    seqlen_k,
    head_dim,
    head_dim_v,
    log2_scale,
    causal,
    diagonal,
):
    """One stage of o = softmax(q @ k.T) @ v, until its tickets are out."""
    ticket = pointer(slot, tickets)
    tile = KEY_TILE if stage == SCORES else ROW_TILE
    tiles = ((seqlen_k if stage == SCORES else seqlen_q) + tile - 1) // tile
    while True:
        task = take_ticket(ticket)
        if task >= batch * num_heads * tiles:
            return
        start = task % tiles * tile
        b = task // tiles // num_heads
        h = task // tiles % num_heads
        s = slab(zero, table, P, b, h)
        s_row = table[P, 3]
        o = slab(zero, table, O, b, h)
        if stage == SCORES:
            rows = min(tile, seqlen_k - start)
            kt = pointer(zero, scratch + slot * scratch_stride) if scratch != 0 else at(o, start * head_dim)
            k = at(slab(zero, table, K, b, h // group), start * table[K, 3])
            pack(k, table[K, 3], rows, head_dim, kt, rows, log2_scale)
            q = slab(zero, table, Q, b, h)
            multiply(q, table[Q, 3], 1, kt, rows, at(s, start), s_row, seqlen_q, rows, head_dim, False)
        elif stage == SOFTMAX:
            lse = slab(zero, table, LSE, b, h)
            for i in range(start, min(start + tile, seqlen_q)):
                cell = at(lse, i)
                seen = keys_seen(i, seqlen_k, causal, diagonal)
                total = softmax_row(at(s, i * s_row), seqlen_k, seen, cell)
                cell[0] = cell[0] * LN2 + math.log(total)
        else:
            rows = min(tile, seqlen_q - start)
            v = slab(zero, table, V, b, h // group)
            v_row, o_row = table[V, 3], table[O, 3]
            if causal and not all_finite(v, v_row, seqlen_k, head_dim_v):
                # Row by row, so that a NaN or inf does not reach, as 0 * NaN, a row that does not see it.
                for i in range(start, start + rows):
                    seen = keys_seen(i, seqlen_k, causal, diagonal)
                    multiply(
                        at(s, i * s_row),
                        s_row,
                        1,
                        v,
                        v_row,
                        at(o, i * o_row),
                        o_row,
                        1,
                        head_dim_v,
                        seen,
                        False,
                    )
            else:
                product(
                    at(s, start * s_row),
                    s_row,
                    1,
                    v,
                    v_row,
                    at(o, start * o_row),
                    o_row,
                    rows,
                    head_dim_v,
                    seqlen_k,
                    False,
                )


@compiled
def standard_backward(
    zero,
    stage,
    table,
    tickets,
    slot,
    batch,
    num_heads,
    num_kv_heads,
    seqlen_q,
    seqlen_k,
    head_dim,
    head_dim_v,
    scale,
    causal,
    diagonal,
):
    """One stage of dq, dk and dv from the kept P, until its tickets are out."""
    ticket = pointer(slot, tickets)
    group = num_heads // num_kv_heads
    by_key = stage in (P_GRADIENT, KEY_GRADIENTS)
    tile = KEY_TILE if stage == P_GRADIENT else ROW_TILE
    tiles = ((seqlen_k if by_key else seqlen_q) + tile - 1) // tile
    heads = num_kv_heads if by_key else num_heads
    p_row, dp_row, do_row, q_row = table[P, 3], table[DP, 3], table[DO, 3], table[Q, 3]
    while True:
        task = take_ticket(ticket)
        if task >= batch * heads * tiles:
            return
        start = task % tiles * tile
        b = task // tiles // heads
        h = task // tiles % heads
        rows = min(tile, (seqlen_k if by_key else seqlen_q) - start)
        if stage == P_GRADIENT:
            # Forward: o = p @ v, so dp = do @ v.T. v.T is packed where dv will be.
            v = at(slab(zero, table, V, b, h), start * table[V, 3])
            vt = at(slab(zero, table, DV, b, h), start * table[DV, 3])
            pack(v, table[V, 3], rows, head_dim_v, vt, rows, zero + 1)
            for head in range(h * group, (h + 1) * group):
                do = slab(zero, table, DO, b, head)
                dp = at(slab(zero, table, DP, b, head), start)
                multiply(do, do_row, 1, vt, rows, dp, dp_row, seqlen_q, rows, head_dim_v, False)
        elif stage == SCORE_GRADIENT:
            for i in range(start, start + rows):
                dp = at(slab(zero, table, DP, b, h), i * dp_row)
                p = at(slab(zero, table, P, b, h), i * p_row)
                gradient_row(dp, p, seqlen_k, keys_seen(i, seqlen_k, causal, diagonal), scale)
        elif stage == KEY_GRADIENTS:
            # Forward: o = p @ v, so dv = p.T @ do; s = q @ k.T, so dk = ds.T @ q.
            dk_row, dv_row = table[DK, 3], table[DV, 3]
            dk = at(slab(zero, table, DK, b, h), start * dk_row)
            dv = at(slab(zero, table, DV, b, h), start * dv_row)
            for head in range(h * group, (h + 1) * group):
                more = head > h * group
                p, ds = at(slab(zero, table, P, b, head), start), at(slab(zero, table, DP, b, head), start)
                do, q = slab(zero, table, DO, b, head), slab(zero, table, Q, b, head)
                finite = True
                if causal:
                    finite = all_finite(do, do_row, seqlen_q, head_dim_v) and all_finite(
                        q, q_row, seqlen_q, head_dim
                    )
                if finite:
                    product(p, 1, p_row, do, do_row, dv, dv_row, rows, head_dim_v, seqlen_q, more)
                    product(ds, 1, dp_row, q, q_row, dk, dk_row, rows, head_dim, seqlen_q, more)
                    continue
                for j in range(rows):  # key by key, from the first query that sees it
                    first = min(seqlen_q, max(0, start + j - diagonal))
                    depth = seqlen_q - first
                    multiply(
                        at(p, j + first * p_row),
                        1,
                        p_row,
                        at(do, first * do_row),
                        do_row,
                        at(dv, j * dv_row),
                        dv_row,
                        1,
                        head_dim_v,
                        depth,
                        more,
                    )
                    multiply(
                        at(ds, j + first * dp_row),
                        1,
                        dp_row,
                        at(q, first * q_row),
                        q_row,
                        at(dk, j * dk_row),
                        dk_row,
                        1,
                        head_dim,
                        depth,
                        more,
                    )
        else:
            # Forward: s = q @ k.T, so dq = ds @ k.
            k, k_row = slab(zero, table, K, b, h // group), table[K, 3]
            ds, dq_row = slab(zero, table, DP, b, h), table[DQ, 3]
            dq = slab(zero, table, DQ, b, h)
            if causal and not all_finite(k, k_row, seqlen_k, head_dim):
                for i in range(start, start + rows):
                    seen = keys_seen(i, seqlen_k, causal, diagonal)
                    multiply(
                        at(ds, i * dp_row),
                        dp_row,
                        1,
                        k,
                        k_row,
                        at(dq, i * dq_row),
                        dq_row,
                        1,
                        head_dim,
                        seen,
                        False,
                    )
            else:
                product(
                    at(ds, start * dp_row),
                    dp_row,
                    1,
                    k,
                    k_row,
                    at(dq, start * dq_row),
                    dq_row,
                    rows,
                    head_dim,
                    seqlen_k,
                    False,
                )
