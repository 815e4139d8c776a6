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

from flashbench.codegen.atomics import publish, wait_for
from flashbench.codegen.compiled import compiled
from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.call.features import (
    ALIBI,
    BATCH_INDEX,
    DIAGONAL,
    FIRST_KEY,
    FIRST_QUERY,
    HIDDEN,
    MASK,
    NO_MASK,
    PARTLY,
    Q_FACTOR,
    SEQLEN_K,
    SEQLEN_Q,
    SOFTCAP,
    TILES_BEFORE,
    end_key,
    first_key,
    key_blocks,
    key_span,
    mask_address,
    mask_on_tile,
    tile_rows,
    tiles_of,
)
from flashbench.kernels.call.visibility import (
    add_seen_to_keys,
    add_seen_to_rows,
    all_finite_once,
    clear_rows,
    hidden_from,
    put_limits,
)
from flashbench.kernels.flash.chains import next_task
from flashbench.kernels.flash.gather import TICKETS, bring_together, copy_rows, send_home
from flashbench.kernels.flash.tile_steps import put_alibi, put_rows, tile_gradients, tile_scores
from flashbench.kernels.products.fma import multiply
from flashbench.kernels.tile.edit import all_finite, pack
from flashbench.kernels.tile.scores import chain_softcap

VECTOR_BYTES = ISA.vector_bytes
ALL_KEYS = 2**62  # published by a task that has finished, whatever it had to do

# Rows of the table of arrays, as in the forward pass.
Q, K, V, O, LSE, DO, DQ, DK, DV, DK_HOME, DV_HOME = range(11)


@compiled
def flash_backward(
    zero,  # of the arrays' dtype: tells it to the compiler
    byte,  # of a bool mask's entries, for the same reason
    itemsize,
    table,
    moves,
    sequences,
    features,
    numbers,
    tickets,
    progress,
    finite,
    scratch,
    scratch_stride,
    slot,
    num_heads,
    num_kv_heads,
    head_dim,
    head_dim_v,
    scale,  # softmax_scale, in the arrays' dtype
    block_q,
    block_k,
    q_room,
    do_room,
    dq_room,
):
    """Work on tiles of queries until none is left.

    moves: what to bring together first (gather.py), k and v of the table being where it goes; dk and dv are
    then there too, and go home when they are done. tickets: TICKETS + 1 + chains counters; progress: one a
    task; finite: one a chain, to note whether its k is finite; all zero at first.
    A thread's scratch, in elements: qt (head_dim, lanes), dot (head_dim_v, lanes), p and ds (block_k, lanes
    each), then lse2, delta, firsts, ends, positions and slopes (lanes each), where lanes is block_q rounded
    up to whole vectors; with softcap also its derivatives (block_k, lanes). q_room, do_room and dq_room:
    bytes from its start to room for a tile of each, whose rows are then used side by side; 0: as they lie.
    """
    vector = VECTOR_BYTES // itemsize
    most_lanes = (block_q + vector - 1) // vector * vector
    bring_together(zero, moves, tickets, slot)
    ticket = at(pointer(slot, tickets), TICKETS)
    qt = pointer(zero, scratch + slot * scratch_stride)
    dot = at(qt, head_dim * most_lanes)
    p = at(dot, head_dim_v * most_lanes)
    ds = at(p, block_k * most_lanes)
    lse2 = at(ds, block_k * most_lanes)
    delta = at(lse2, most_lanes)
    firsts = at(delta, most_lanes)
    ends = at(firsts, most_lanes)
    positions = at(ends, most_lanes)
    slopes = at(positions, most_lanes)
    tables = (firsts, ends, positions, slopes)
    told = (zero, byte, features, numbers)
    cap_slopes = at(slopes, most_lanes)
    group = num_heads // num_kv_heads
    q_row, k_row, v_row, o_row = table[Q, 3], table[K, 3], table[V, 3], table[O, 3]
    do_row, dq_row, dk_row, dv_row = table[DO, 3], table[DQ, 3], table[DK, 3], table[DV, 3]
    place = scratch + slot * scratch_stride
    sum_row = head_dim if dq_room else dq_row
    chain, link = next_task(ticket, -1, sequences, num_heads, num_kv_heads, block_q, features, slot)
    while chain >= 0:
        b, kv = chain // num_kv_heads, chain % num_kv_heads
        seqlen_q, seqlen_k = sequences[b, SEQLEN_Q], sequences[b, SEQLEN_K]
        diagonal = sequences[b, DIAGONAL]
        tiles = tiles_of(seqlen_q, block_q, features)
        h = kv * group + link // tiles
        q_start, q_rows = tile_rows(tiles - 1 - link % tiles, seqlen_q, block_q, features)
        task = sequences[b, TILES_BEFORE] * num_heads + kv * group * tiles + link
        done = pointer(slot, progress + 8 * task)
        before = at(done, -1)

        batch, query, key = sequences[b, BATCH_INDEX], sequences[b, FIRST_QUERY], sequences[b, FIRST_KEY]
        query += q_start
        q = at(pointer(zero, table[Q, 0] + batch * table[Q, 1] + h * table[Q, 2]), query * q_row)
        k = at(pointer(zero, table[K, 0] + batch * table[K, 1] + kv * table[K, 2]), key * k_row)
        v = at(pointer(zero, table[V, 0] + batch * table[V, 1] + kv * table[V, 2]), key * v_row)
        o = at(pointer(zero, table[O, 0] + batch * table[O, 1] + h * table[O, 2]), query * o_row)
        lse = at(
            pointer(zero, table[LSE, 0] + batch * table[LSE, 1] + h * table[LSE, 2]), query * table[LSE, 3]
        )
        do = at(pointer(zero, table[DO, 0] + batch * table[DO, 1] + h * table[DO, 2]), query * do_row)
        dq = at(pointer(zero, table[DQ, 0] + batch * table[DQ, 1] + h * table[DQ, 2]), query * dq_row)
        dk = at(pointer(zero, table[DK, 0] + batch * table[DK, 1] + kv * table[DK, 2]), key * dk_row)
        dv = at(pointer(zero, table[DV, 0] + batch * table[DV, 1] + kv * table[DV, 2]), key * dv_row)

        finite_k = pointer(slot, finite + 8 * chain)
        near_q, near_q_row, near_do, near_do_row = q, q_row, do, do_row
        if q_room:
            near_q, near_q_row = pointer(zero, place + q_room), head_dim
            copy_rows(q, q_row, near_q, near_q_row, q_rows, head_dim, zero + 1)
        if do_room:
            near_do, near_do_row = pointer(zero, place + do_room), head_dim_v
            copy_rows(do, do_row, near_do, near_do_row, q_rows, head_dim_v, zero + 1)
        sums = pointer(zero, place + dq_room) if dq_room else dq

        lanes = (q_rows + vector - 1) // vector * vector
        # softmax_scale goes into the packed tiles: scores come out in units of log2, ds ready for dq and dk.
        pack(near_q, near_q_row, q_rows, head_dim, qt, lanes, numbers[Q_FACTOR])
        put_rows(
            near_do,
            near_do_row,
            o,
            o_row,
            lse,
            table[LSE, 3],
            q_rows,
            lanes,
            head_dim_v,
            scale,
            dot,
            lse2,
            delta,
            zero,
        )
        if features[ALIBI]:
            put_alibi(positions, slopes, q_start, lanes, diagonal, b, h, zero, features)
        k_first = first_key(q_start, seqlen_k, diagonal, features)
        k_end = end_key(q_start + q_rows - 1, seqlen_k, diagonal, features) if q_rows else 0
        limited = k_first < k_end and (
            hidden_from(q_start, q_rows, k_first, k_end - k_first, seqlen_k, diagonal, features)
            < k_end - k_first
        )
        if limited:
            put_limits(firsts, ends, q_start, q_rows, lanes, seqlen_k, diagonal, features)
        rows_finite = True
        if limited or features[MASK] != NO_MASK:
            rows_finite = all_finite(q, q_row, q_rows, head_dim) and all_finite(
                do, do_row, q_rows, head_dim_v
            )
            for r in range(q_rows):  # a NaN makes one even of what is hidden: exp2(-inf - NaN)
                rows_finite = rows_finite and not math.isnan(at(lse2, r)[0])
        begun = False
        past = 0  # keys that this task is done with, or leaves alone
        if link > 0 and k_first > 0:  # so that the next task need not wait for this one's first tile
            wait_for(before, k_first)
            publish(done, k_first)

        block, last_block = key_blocks(b, h, q_start, features, slot)
        while block < last_block:
            k_start, span_end = key_span(block, k_first, k_end, features, slot)
            while k_start < span_end:
                k_rows = min(block_k, span_end - k_start)
                mask = mask_address(b, h, block, q_start, k_start, features, slot)
                seen = mask_on_tile(mask, q_rows, k_rows, zero, byte, features)
                if seen == HIDDEN:
                    k_start += k_rows
                    continue
                k_tile, v_tile = at(k, k_start * k_row), at(v, k_start * v_row)
                dk_tile, dv_tile = at(dk, k_start * dk_row), at(dv, k_start * dv_row)
                hidden = hidden_from(q_start, q_rows, k_start, k_rows, seqlen_k, diagonal, features)
                partly = hidden < k_rows or seen == PARTLY
                tile = (q_start, k_start, seqlen_k, diagonal, mask)

                # Pass 1: scores again. Forward: s = k @ qt.
                tile_scores(
                    p,
                    k_tile,
                    k_row,
                    qt,
                    lanes,
                    q_rows,
                    k_rows,
                    head_dim,
                    k_start,
                    tables,
                    cap_slopes,
                    mask,
                    seen,
                    hidden,
                    told,
                )

                # Pass 2: their gradients. Forward: p = softmax(s), o = p @ v.
                tile_gradients(
                    p,
                    ds,
                    v_tile,
                    v_row,
                    dot,
                    lanes,
                    q_rows,
                    k_rows,
                    head_dim_v,
                    lse2,
                    delta,
                    q_start,
                    k_start,
                    tables,
                    b,
                    h,
                    mask,
                    seen,
                    hidden,
                    told,
                )
                if features[SOFTCAP]:
                    chain_softcap(ds, cap_slopes, k_rows * lanes)

                # Pass 3: what the keys get, in the chain's order. Forward: o += p @ v, so dv += p.T @ do;
                # s = q @ k.T, so dk += ds.T @ q.
                if link > 0:
                    wait_for(before, k_start + k_rows)
                elif past < k_start:  # keys that no query of the first task sees
                    clear_rows(at(dk, past * dk_row), dk_row, k_start - past, head_dim, zero)
                    clear_rows(at(dv, past * dv_row), dv_row, k_start - past, head_dim_v, zero)
                if partly and not rows_finite:
                    if link == 0:
                        clear_rows(dv_tile, dv_row, k_rows, head_dim_v, zero)
                        clear_rows(dk_tile, dk_row, k_rows, head_dim, zero)
                    add_seen_to_keys(
                        p,
                        lanes,
                        tile,
                        near_do,
                        near_do_row,
                        dv_tile,
                        dv_row,
                        q_rows,
                        head_dim_v,
                        k_rows,
                        zero,
                        byte,
                        features,
                    )
                    add_seen_to_keys(
                        ds,
                        lanes,
                        tile,
                        near_q,
                        near_q_row,
                        dk_tile,
                        dk_row,
                        q_rows,
                        head_dim,
                        k_rows,
                        zero,
                        byte,
                        features,
                    )
                else:
                    add = link > 0
                    multiply(
                        p, lanes, 1, near_do, near_do_row, dv_tile, dv_row, k_rows, head_dim_v, q_rows, add
                    )
                    multiply(ds, lanes, 1, near_q, near_q_row, dk_tile, dk_row, k_rows, head_dim, q_rows, add)
                past = k_start + k_rows
                publish(done, past)

                # Pass 4: what the queries get. Forward: s = q @ k.T, so dq += ds @ k.
                if partly and not all_finite_once(finite_k, k, k_row, seqlen_k, head_dim):
                    if not begun:
                        clear_rows(sums, sum_row, q_rows, head_dim, zero)
                    add_seen_to_rows(
                        ds,
                        lanes,
                        tile,
                        k_tile,
                        k_row,
                        sums,
                        sum_row,
                        q_rows,
                        head_dim,
                        k_rows,
                        zero,
                        byte,
                        features,
                    )
                else:
                    multiply(ds, 1, lanes, k_tile, k_row, sums, sum_row, q_rows, head_dim, k_rows, begun)
                begun = True
                k_start += k_rows
            block += 1

        if not begun:
            clear_rows(sums, sum_row, q_rows, head_dim, zero)
        if dq_room:
            copy_rows(sums, sum_row, dq, dq_row, q_rows, head_dim, zero + 1)
        if link == 0:
            clear_rows(at(dk, past * dk_row), dk_row, seqlen_k - past, head_dim, zero)
            clear_rows(at(dv, past * dv_row), dv_row, seqlen_k - past, head_dim_v, zero)
        else:
            wait_for(before, ALL_KEYS)
        if link + 1 == group * tiles:
            send_home(zero, dk, table[DK], table[DK_HOME], batch, kv, key, seqlen_k, head_dim)
            send_home(zero, dv, table[DV], table[DV_HOME], batch, kv, key, seqlen_k, head_dim_v)
        publish(done, ALL_KEYS)
        chain, link = next_task(ticket, chain, sequences, num_heads, num_kv_heads, block_q, features, slot)
