"""Tiled attention with an online softmax: the forward pass of FlashAttention (Dao et al. 2022; Dao 2023).

A task is one tile of queries of one head. Its scores are kept transposed, s[key, query lane], so that
neither K nor V is packed; o itself is the accumulator, so that a thread's workspace is the packed
queries and one tile of scores. Only where rows lie so far apart that they push each other out of the
cache are k and v brought together first, and has a thread room for a tile of o too.
"""

from __future__ import annotations

import math

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.compiled import compiled
from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.call.features import (
    ALIBI,
    BATCH_INDEX,
    DIAGONAL,
    DROPOUT,
    FIRST_KEY,
    FIRST_QUERY,
    HIDDEN,
    KEEP_FACTOR,
    PARTLY,
    Q_FACTOR,
    SEED,
    SEQLEN_K,
    SEQLEN_Q,
    SINKS,
    SINKS_AT,
    SINKS_HEAD,
    THRESHOLD,
    TILES_BEFORE,
    end_key,
    first_key,
    key_blocks,
    key_span,
    mask_address,
    mask_on_tile,
    sequence_of,
    tile_rows,
    tiles_of,
)
from flashbench.kernels.call.visibility import (
    LOG2E,
    add_seen_to_rows,
    all_finite_once,
    clear_rows,
    hidden_from,
    put_limits,
)
from flashbench.kernels.flash.gather import TICKETS, bring_together
from flashbench.kernels.flash.tile_steps import put_alibi, tile_scores
from flashbench.kernels.products.fma import multiply
from flashbench.kernels.tile.dropout import drop
from flashbench.kernels.tile.edit import pack, put_multiple, scale_rows
from flashbench.kernels.tile.softmax import online_softmax

LN2 = math.log(2.0)
VECTOR_BYTES = ISA.vector_bytes

# Rows of the table of arrays: (address, batch stride, head stride, row stride), strides in bytes but
# for the row's, which is in elements.
Q, K, V, O, LSE = range(5)


@compiled
def flash_forward(
    zero,  # of the arrays' dtype: tells it to the compiler
    byte,  # of a bool mask's entries, for the same reason
    itemsize,
    table,
    moves,
    sequences,
    features,
    numbers,
    tickets,
    finite,
    scratch,
    scratch_stride,
    slot,
    tasks,
    num_heads,
    group,
    head_dim,
    head_dim_v,
    block_q,
    block_k,
    o_room,
):
    """Work on tiles of queries until none of the `tasks` is left; 1 + TICKETS tickets hand them out.

    moves: what to bring together first (gather.py), k and v of the table being where it goes.
    finite: a number for each key/value head of a sequence, zero at first, to note whether its v is finite.
    A thread's scratch, in elements: qt (head_dim, lanes), s (block_k, lanes), then row_max, row_sum and
    rescale (lanes each), as far as features need them firsts, ends, positions and slopes (lanes each), where
    lanes is block_q rounded up to whole vectors. o_room: bytes from its start to room for a tile of o, whose
    rows are then side by side until they are done; 0: as they lie.
    """
    vector = VECTOR_BYTES // itemsize
    most_lanes = (block_q + vector - 1) // vector * vector
    bring_together(zero, moves, tickets, slot)
    ticket = at(pointer(slot, tickets), TICKETS)
    qt = pointer(zero, scratch + slot * scratch_stride)
    s = at(qt, head_dim * most_lanes)
    row_max = at(s, block_k * most_lanes)
    row_sum = at(row_max, most_lanes)
    rescale = at(row_sum, most_lanes)
    firsts = at(rescale, most_lanes)
    ends = at(firsts, most_lanes)
    positions = at(ends, most_lanes)
    slopes = at(positions, most_lanes)
    tables = (firsts, ends, positions, slopes)
    told = (zero, byte, features, numbers)
    q_row, k_row, v_row, o_row = table[Q, 3], table[K, 3], table[V, 3], table[O, 3]
    sum_row = head_dim_v if o_room else o_row
    while True:
        task = take_ticket(ticket)
        if task >= tasks:
            return
        b = sequence_of(sequences, task, num_heads)
        seqlen_q, seqlen_k = sequences[b, SEQLEN_Q], sequences[b, SEQLEN_K]
        diagonal = sequences[b, DIAGONAL]
        tiles = tiles_of(seqlen_q, block_q, features)
        task -= sequences[b, TILES_BEFORE] * num_heads
        h = task // tiles
        kv = h // group
        # Longest causal tiles first, so that the last tasks are short and threads finish together.
        q_start, q_rows = tile_rows(tiles - 1 - task % tiles, seqlen_q, block_q, features)
        if q_rows == 0:
            continue
        batch, query, key = sequences[b, BATCH_INDEX], sequences[b, FIRST_QUERY], sequences[b, FIRST_KEY]
        query += q_start
        q = at(pointer(zero, table[Q, 0] + batch * table[Q, 1] + h * table[Q, 2]), query * q_row)
        k = at(pointer(zero, table[K, 0] + batch * table[K, 1] + kv * table[K, 2]), key * k_row)
        v = at(pointer(zero, table[V, 0] + batch * table[V, 1] + kv * table[V, 2]), key * v_row)
        o = at(pointer(zero, table[O, 0] + batch * table[O, 1] + h * table[O, 2]), query * o_row)
        lse = at(pointer(zero, table[LSE, 0] + batch * table[LSE, 1] + h * table[LSE, 2]), query)

        sums = pointer(zero, scratch + slot * scratch_stride + o_room) if o_room else o
        finite_v = pointer(slot, finite + 8 * (b * (num_heads // group) + kv))

        lanes = (q_rows + vector - 1) // vector * vector
        pack(q, q_row, q_rows, head_dim, qt, lanes, numbers[Q_FACTOR])
        start_max, start_sum = zero - math.inf, zero
        if features[SINKS]:
            sink = pointer(zero, features[SINKS_AT] + h * features[SINKS_HEAD])[0]
            if sink != -math.inf:  # a key of its own, that carries no value
                start_max, start_sum = sink * LOG2E, zero + 1
        for lane in range(lanes):
            at(row_max, lane)[0] = start_max
            at(row_sum, lane)[0] = start_sum
        if features[ALIBI]:
            put_alibi(positions, slopes, q_start, lanes, diagonal, b, h, zero, features)
        k_first = first_key(q_start, seqlen_k, diagonal, features)
        k_end = end_key(q_start + q_rows - 1, seqlen_k, diagonal, features)
        if k_first < k_end and (
            hidden_from(q_start, q_rows, k_first, k_end - k_first, seqlen_k, diagonal, features)
            < k_end - k_first
        ):
            put_limits(firsts, ends, q_start, q_rows, lanes, seqlen_k, diagonal, features)
        begun = False
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
                v_tile = at(v, k_start * v_row)

                # Pass 1: scores, in units of log2, and what the features make of them.
                hidden = hidden_from(q_start, q_rows, k_start, k_rows, seqlen_k, diagonal, features)
                tile_scores(
                    s,
                    at(k, k_start * k_row),
                    k_row,
                    qt,
                    lanes,
                    q_rows,
                    k_rows,
                    head_dim,
                    k_start,
                    tables,
                    pointer(zero, 0),
                    mask,
                    seen,
                    hidden,
                    told,
                )

                # Pass 2: probabilities under the maximum so far; what o holds comes to the same maximum.
                grew = online_softmax(s, lanes, k_rows, lanes, row_max, row_sum, rescale)
                if grew and begun:
                    scale_rows(sums, sum_row, q_rows, head_dim_v, rescale)
                if features[DROPOUT]:
                    drop(s, k_rows, lanes, k_start, q_start, h, b, features[SEED], features[THRESHOLD])

                # Pass 3: o += p @ v.
                if (hidden < k_rows or seen == PARTLY) and not all_finite_once(
                    finite_v, v, v_row, seqlen_k, head_dim_v
                ):
                    if not begun:
                        clear_rows(sums, sum_row, q_rows, head_dim_v, zero)
                    tile = (q_start, k_start, seqlen_k, diagonal, mask)
                    add_seen_to_rows(
                        s,
                        lanes,
                        tile,
                        v_tile,
                        v_row,
                        sums,
                        sum_row,
                        q_rows,
                        head_dim_v,
                        k_rows,
                        zero,
                        byte,
                        features,
                    )
                else:
                    multiply(s, 1, lanes, v_tile, v_row, sums, sum_row, q_rows, head_dim_v, k_rows, begun)
                begun = True
                k_start += k_rows
            block += 1
        if not begun:
            clear_rows(sums, sum_row, q_rows, head_dim_v, zero)

        for r in range(q_rows):
            total = at(row_sum, r)[0]
            # A row that sees no key has sum 0: o = 0, lse = -inf.
            at(rescale, r)[0] = numbers[KEEP_FACTOR] / total if total != 0 else zero
            at(lse, r)[0] = at(row_max, r)[0] * LN2 + math.log(total)
        if o_room:
            for r in range(q_rows):
                put_multiple(at(o, r * o_row), at(sums, r * sum_row), head_dim_v, at(rescale, r)[0])
        else:
            scale_rows(o, o_row, q_rows, head_dim_v, rescale)
