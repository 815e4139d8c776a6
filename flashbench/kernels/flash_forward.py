"""Tiled attention with an online softmax: the forward pass of FlashAttention (Dao et al. 2022; Dao 2023).

A task is one tile of queries of one head. Its scores are kept transposed, s[key, query lane], so that
neither K nor V is packed; o itself is the accumulator, so that a thread's workspace is the packed
queries and one tile of scores.
"""

from __future__ import annotations

import math

from flashbench.kernels.compiled import compiled
from flashbench.kernels.isa import ISA
from flashbench.kernels.matmul import multiply
from flashbench.kernels.memory import at, pointer, take_ticket
from flashbench.kernels.softmax import online_softmax
from flashbench.kernels.tiles import pack, scale_rows
from flashbench.kernels.visibility import (
    add_visible_to_rows,
    clear_rows,
    hidden_finite,
    hide,
    keys_seen,
    seen_by_first_row,
)

LN2 = math.log(2.0)
VECTOR_BYTES = ISA.vector_bytes

# Rows of the table of arrays: (address, batch stride, head stride, row stride), strides in bytes but
# for the row's, which is in elements.
Q, K, V, O, LSE = range(5)


@compiled
def flash_forward(
    zero,  # of the arrays' dtype: tells it to the compiler
    itemsize,
    table,
    tickets,
    scratch,
    scratch_stride,
    slot,
    tasks,
    num_heads,
    group,
    seqlen_q,
    seqlen_k,
    head_dim,
    head_dim_v,
    log2_scale,  # softmax_scale * log2(e), in the arrays' dtype
    causal,
    diagonal,
    block_q,
    block_k,
):
    """Work on tiles of queries until none of the `tasks` is left; tickets hand them out.

    A thread's scratch, in elements: qt (head_dim, lanes), s (block_k, lanes), row_max, row_sum and
    rescale (lanes each), where lanes is block_q rounded up to whole vectors.
    """
    vector = VECTOR_BYTES // itemsize
    most_lanes = (block_q + vector - 1) // vector * vector
    ticket = pointer(slot, tickets)
    qt = pointer(zero, scratch + slot * scratch_stride)
    s = at(qt, head_dim * most_lanes)
    row_max = at(s, block_k * most_lanes)
    row_sum = at(row_max, most_lanes)
    rescale = at(row_sum, most_lanes)
    tiles = (seqlen_q + block_q - 1) // block_q
    q_row, k_row, v_row, o_row = table[Q, 3], table[K, 3], table[V, 3], table[O, 3]
    while True:
        task = take_ticket(ticket)
        if task >= tasks:
            return
        # Longest causal tiles first, so that the last tasks are short and threads finish together.
        q_start = (tiles - 1 - task % tiles) * block_q
        b = task // tiles // num_heads
        h = task // tiles % num_heads
        kv = h // group
        q = at(pointer(zero, table[Q, 0] + b * table[Q, 1] + h * table[Q, 2]), q_start * q_row)
        k = pointer(zero, table[K, 0] + b * table[K, 1] + kv * table[K, 2])
        v = pointer(zero, table[V, 0] + b * table[V, 1] + kv * table[V, 2])
        o = at(pointer(zero, table[O, 0] + b * table[O, 1] + h * table[O, 2]), q_start * o_row)
        lse = at(pointer(zero, table[LSE, 0] + b * table[LSE, 1] + h * table[LSE, 2]), q_start)

        q_rows = min(block_q, seqlen_q - q_start)
        lanes = (q_rows + vector - 1) // vector * vector
        pack(q, q_row, q_rows, head_dim, qt, lanes, log2_scale)
        for lane in range(lanes):
            at(row_max, lane)[0] = -math.inf
            at(row_sum, lane)[0] = zero
        k_end = keys_seen(q_start + q_rows - 1, seqlen_k, causal, diagonal)
        if k_end == 0:
            clear_rows(o, o_row, q_rows, head_dim_v, zero)
        for k_start in range(0, k_end, block_k):
            k_rows = min(block_k, k_end - k_start)
            v_tile = at(v, k_start * v_row)
            seen = seen_by_first_row(q_start, k_start, k_rows, causal, diagonal)

            # Pass 1: scores, in units of log2.
            multiply(at(k, k_start * k_row), k_row, 1, qt, lanes, s, lanes, k_rows, lanes, head_dim, False)
            if seen < k_rows:
                hide(s, lanes, seen, k_rows, -math.inf)

            # Pass 2: probabilities under the maximum so far; what o holds comes to the same maximum.
            grew = online_softmax(s, lanes, k_rows, lanes, row_max, row_sum, rescale)
            if grew and k_start > 0:
                scale_rows(o, o_row, q_rows, head_dim_v, rescale)

            # Pass 3: o += p @ v.
            if seen < k_rows and not hidden_finite(v_tile, v_row, seen, k_rows, head_dim_v):
                if k_start == 0:
                    clear_rows(o, o_row, q_rows, head_dim_v, zero)
                add_visible_to_rows(s, lanes, seen, v_tile, v_row, o, o_row, q_rows, head_dim_v, k_rows)
            else:
                multiply(s, 1, lanes, v_tile, v_row, o, o_row, q_rows, head_dim_v, k_rows, k_start > 0)

        for r in range(q_rows):
            total = at(row_sum, r)[0]
            # A row that sees no key has sum 0: o = 0, lse = -inf.
            at(rescale, r)[0] = 1 / total if total != 0 else zero
            at(lse, r)[0] = at(row_max, r)[0] * LN2 + math.log(total)
        scale_rows(o, o_row, q_rows, head_dim_v, rescale)
