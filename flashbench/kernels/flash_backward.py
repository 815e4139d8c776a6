"""Tiled attention, backward by recomputation: no seqlen_q x seqlen_k array anywhere (Dao et al. 2022).

A task is one tile of queries of one head, as in the forward pass. dq belongs to the task; dk and dv
are shared by the chain of all tasks of a key/value head, which add to them in one fixed order: a task
waits, key block by key block, until the task before it is past that block. A thread works through a chain
of its own while there are any; when there are none left it joins another's, and the threads of a chain
follow each other like a wave. So every core is busy even with a single head, and the sums do not depend
on the number of threads.
"""

from __future__ import annotations

import math

from numba import njit

from flashbench.kernels.compiled import compiled
from flashbench.kernels.isa import ISA
from flashbench.kernels.matmul import multiply
from flashbench.kernels.memory import at, pointer, publish, take_ticket, wait_for
from flashbench.kernels.softmax import probabilities, score_gradients
from flashbench.kernels.tiles import all_finite, pack, row_dots
from flashbench.kernels.visibility import (
    add_visible_to_keys,
    add_visible_to_rows,
    clear_rows,
    hidden_finite,
    hide,
    keys_seen,
    seen_by_first_row,
)

LOG2E = math.log2(math.e)
VECTOR_BYTES = ISA.vector_bytes
ALL_KEYS = 2**62  # published by a task that has finished, whatever it had to do

# Rows of the table of arrays, as in the forward pass.
Q, K, V, O, LSE, DO, DQ, DK, DV = range(9)


@njit(nogil=True)
def next_task(tickets, chain, chains, links, slot):
    """chain * links + link of the task to do after one of `chain` (-1 at first), or -1.

    tickets[0] counts the chains begun, tickets[1 + chain] the tasks of each.
    """
    while chain < chains:
        if chain >= 0:
            link = take_ticket(at(tickets, 1 + chain))
            if link < links:
                return chain * links + link
        chain = take_ticket(tickets)
    for step in range(chains):
        chain = (slot + step) % chains
        link = take_ticket(at(tickets, 1 + chain))
        if link < links:
            return chain * links + link
    return -1


@compiled
def flash_backward(
    zero,  # of the arrays' dtype: tells it to the compiler
    itemsize,
    table,
    tickets,
    progress,
    scratch,
    scratch_stride,
    slot,
    batch,
    num_heads,
    num_kv_heads,
    seqlen_q,
    seqlen_k,
    head_dim,
    head_dim_v,
    log2_scale,  # softmax_scale * log2(e), in the arrays' dtype
    scale,  # softmax_scale, in the arrays' dtype
    causal,
    diagonal,
    block_q,
    block_k,
):
    """Work on tiles of queries until none is left.

    tickets: 1 + batch * num_kv_heads counters; progress: one a task; both zero at first. A thread's
    scratch, in elements: qt (head_dim, lanes), dot (head_dim_v, lanes), p and ds (block_k, lanes each),
    lse2 and delta (lanes each), where lanes is block_q rounded up to whole vectors.
    """
    vector = VECTOR_BYTES // itemsize
    most_lanes = (block_q + vector - 1) // vector * vector
    ticket = pointer(slot, tickets)
    qt = pointer(zero, scratch + slot * scratch_stride)
    dot = at(qt, head_dim * most_lanes)
    p = at(dot, head_dim_v * most_lanes)
    ds = at(p, block_k * most_lanes)
    lse2 = at(ds, block_k * most_lanes)
    delta = at(lse2, most_lanes)
    group = num_heads // num_kv_heads
    tiles = (seqlen_q + block_q - 1) // block_q
    chains = batch * num_kv_heads
    links = group * tiles  # tasks of one chain, that is of one key/value head
    q_row, k_row, v_row, o_row = table[Q, 3], table[K, 3], table[V, 3], table[O, 3]
    do_row, dq_row, dk_row, dv_row = table[DO, 3], table[DQ, 3], table[DK, 3], table[DV, 3]
    task = next_task(ticket, -1, chains, links, slot)
    while task >= 0:
        chain, link = task // links, task % links
        # Longest causal tiles first: each task then sees no key that the one before it did not.
        q_start = (tiles - 1 - link % tiles) * block_q
        b = chain // num_kv_heads
        kv = chain % num_kv_heads
        h = kv * group + link // tiles
        done = pointer(slot, progress + 8 * task)
        before = at(done, -1)

        q = at(pointer(zero, table[Q, 0] + b * table[Q, 1] + h * table[Q, 2]), q_start * q_row)
        k = pointer(zero, table[K, 0] + b * table[K, 1] + kv * table[K, 2])
        v = pointer(zero, table[V, 0] + b * table[V, 1] + kv * table[V, 2])
        o = at(pointer(zero, table[O, 0] + b * table[O, 1] + h * table[O, 2]), q_start * o_row)
        lse = at(
            pointer(zero, table[LSE, 0] + b * table[LSE, 1] + h * table[LSE, 2]), q_start * table[LSE, 3]
        )
        do = at(pointer(zero, table[DO, 0] + b * table[DO, 1] + h * table[DO, 2]), q_start * do_row)
        dq = at(pointer(zero, table[DQ, 0] + b * table[DQ, 1] + h * table[DQ, 2]), q_start * dq_row)
        dk = pointer(zero, table[DK, 0] + b * table[DK, 1] + kv * table[DK, 2])
        dv = pointer(zero, table[DV, 0] + b * table[DV, 1] + kv * table[DV, 2])

        q_rows = min(block_q, seqlen_q - q_start)
        lanes = (q_rows + vector - 1) // vector * vector
        k_end = keys_seen(q_start + q_rows - 1, seqlen_k, causal, diagonal)
        # softmax_scale goes into the packed tiles: scores come out in units of log2, ds ready for dq and dk.
        pack(q, q_row, q_rows, head_dim, qt, lanes, log2_scale)
        pack(do, do_row, q_rows, head_dim_v, dot, lanes, scale)
        row_dots(o, o_row, do, do_row, q_rows, head_dim_v, scale, delta)
        for r in range(q_rows):
            row_lse = at(lse, r * table[LSE, 3])[0]
            # +inf makes every probability 0 for a row that sees no key (lse = -inf).
            at(lse2, r)[0] = row_lse * LOG2E if row_lse != -math.inf else math.inf
        for r in range(q_rows, lanes):
            at(lse2, r)[0] = math.inf
            at(delta, r)[0] = zero
        rows_finite = True
        if seen_by_first_row(q_start, 0, k_end, causal, diagonal) < k_end:
            rows_finite = all_finite(q, q_row, q_rows, head_dim) and all_finite(
                do, do_row, q_rows, head_dim_v
            )

        for k_start in range(0, k_end, block_k):
            k_rows = min(block_k, k_end - k_start)
            k_tile, v_tile = at(k, k_start * k_row), at(v, k_start * v_row)
            dk_tile, dv_tile = at(dk, k_start * dk_row), at(dv, k_start * dv_row)
            seen = seen_by_first_row(q_start, k_start, k_rows, causal, diagonal)
            partly_hidden = seen < k_rows

            # Pass 1: probabilities again. Forward: s = k @ qt, p = exp2(s - lse2).
            multiply(k_tile, k_row, 1, qt, lanes, p, lanes, k_rows, lanes, head_dim, False)
            if partly_hidden:
                hide(p, lanes, seen, k_rows, -math.inf)
            probabilities(p, lanes, k_rows, lanes, lse2)

            # Pass 2: score gradients. Forward: o = p @ v, so dp = do @ v.T; softmax: ds = p * (dp - delta).
            multiply(v_tile, v_row, 1, dot, lanes, ds, lanes, k_rows, lanes, head_dim_v, False)
            score_gradients(ds, p, lanes, k_rows, lanes, delta)
            if partly_hidden:
                hide(ds, lanes, seen, k_rows, zero)

            # Pass 3: what the keys get, in the chain's order. Forward: o += p @ v, so dv += p.T @ do;
            # s = q @ k.T, so dk += ds.T @ q.
            if link > 0:
                wait_for(before, k_start + k_rows)
            if partly_hidden and not rows_finite:
                if link == 0:
                    clear_rows(dv_tile, dv_row, k_rows, head_dim_v, zero)
                    clear_rows(dk_tile, dk_row, k_rows, head_dim, zero)
                add_visible_to_keys(p, lanes, seen, do, do_row, dv_tile, dv_row, k_rows, head_dim_v, q_rows)
                add_visible_to_keys(ds, lanes, seen, q, q_row, dk_tile, dk_row, k_rows, head_dim, q_rows)
            else:
                multiply(p, lanes, 1, do, do_row, dv_tile, dv_row, k_rows, head_dim_v, q_rows, link > 0)
                multiply(ds, lanes, 1, q, q_row, dk_tile, dk_row, k_rows, head_dim, q_rows, link > 0)
            publish(done, k_start + k_rows)

            # Pass 4: what the queries get. Forward: s = q @ k.T, so dq += ds @ k.
            if partly_hidden and not hidden_finite(k_tile, k_row, seen, k_rows, head_dim):
                if k_start == 0:
                    clear_rows(dq, dq_row, q_rows, head_dim, zero)
                add_visible_to_rows(ds, lanes, seen, k_tile, k_row, dq, dq_row, q_rows, head_dim, k_rows)
            else:
                multiply(ds, 1, lanes, k_tile, k_row, dq, dq_row, q_rows, head_dim, k_rows, k_start > 0)

        if k_end == 0:
            clear_rows(dq, dq_row, q_rows, head_dim, zero)
        if link == 0:  # keys that no query sees
            clear_rows(at(dk, k_end * dk_row), dk_row, seqlen_k - k_end, head_dim, zero)
            clear_rows(at(dv, k_end * dv_row), dv_row, seqlen_k - k_end, head_dim_v, zero)
        else:
            wait_for(before, ALL_KEYS)
        publish(done, ALL_KEYS)
        task = next_task(ticket, chain, chains, links, slot)
