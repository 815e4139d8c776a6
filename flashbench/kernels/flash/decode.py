"""Few queries against many keys, as in decoding: split over the keys, at the speed of reading K and V once.

Flash-Decoding (Dao et al. 2023). A task is a part of the keys of one key/value head, for a chunk of the
queries of all heads that share it (GQA), so that K and V are read once for all of them. Each part ends with
o under a maximum of its own; whoever finishes the last part of a head merges them, in a fixed order, so that
the result does not depend on the number of threads. Keys may lie in pages, found by a block table.
"""

from __future__ import annotations

import math

from numba import njit

from flashbench.codegen.atomics import fetch_add, take_ticket
from flashbench.codegen.compiled import compiled
from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import at, pointer, prefetch_rows
from flashbench.kernels.call.features import (
    ALIBI,
    BATCH_INDEX,
    CAP,
    DIAGONAL,
    FIRST_KEY,
    FIRST_QUERY,
    MASK,
    NO_MASK,
    PAGE_SIZE,
    PAGES_AT,
    PAGES_BATCH,
    Q_FACTOR,
    SEQLEN_K,
    SEQLEN_Q,
    SINKS,
    SINKS_AT,
    SINKS_HEAD,
    SLOPES_AT,
    SLOPES_BATCH,
    SLOPES_HEAD,
    SOFTCAP,
    TILES_BEFORE,
    end_key,
    first_key,
    mask_address,
    sequence_of,
)
from flashbench.kernels.call.visibility import LOG2E, apply_mask, clear_rows, sees
from flashbench.kernels.flash.scratch import MOST_PARTS
from flashbench.kernels.maths.dots import QUERIES, dot_products
from flashbench.kernels.products.fma import multiply
from flashbench.kernels.tile.edit import all_finite, fill, pack, put_multiple, scale_rows
from flashbench.kernels.tile.scores import add_alibi, cap_scores, hide_outside, put_whole
from flashbench.kernels.tile.softmax import online_softmax

LN2 = math.log(2.0)
VECTOR_BYTES = ISA.vector_bytes
FEW = 8  # rows up to which dot products are faster than a product with queries for lanes
_PIECE = 32  # keys whose values are added up before memory is asked for some more
_FETCHED = 6  # keys of the next tile, a piece
_PIECES = 4  # of a tile that do so

# Rows of the table of arrays, as in the forward pass.
Q, K, V, O, LSE = range(5)


@njit(nogil=True)
def parts_of(seqlen_k, part_keys):
    """Into how many parts the keys of a sequence are split; one even of none, which writes o = 0."""
    return max(1, (seqlen_k + part_keys - 1) // part_keys)


@njit(nogil=True)
def rows_together(table, array, kv, key, keys, sequences, b, features, slot):
    """(address of the row of key `key`, how many of the `keys` from there on lie one after the other)."""
    batch, row = sequences[b, BATCH_INDEX], sequences[b, FIRST_KEY] + key
    if features[PAGE_SIZE] != 0:
        pages = pointer(slot, features[PAGES_AT] + b * features[PAGES_BATCH])
        batch, row = pages[key // features[PAGE_SIZE]], key % features[PAGE_SIZE]
        keys = min(keys, features[PAGE_SIZE] - row)
    head = table[array, 0] + batch * table[array, 1] + kv * table[array, 2]
    return head, row, keys


@compiled
def flash_decode(
    zero,  # of the arrays' dtype: tells it to the compiler
    byte,
    itemsize,
    table,
    sequences,
    features,
    numbers,
    tickets,
    arrivals,
    parts,
    scratch,
    scratch_stride,
    slot,
    tasks,
    num_kv_heads,
    group,
    head_dim,
    head_dim_v,
    chunk,
    part_keys,
    block_k,
):
    """Work on parts of the keys until none of the `tasks` is left.

    arrivals: a counter a task, zero at first, of which each head's first part uses one. parts: address of
    (rows, head_dim_v + 2) numbers a task, where rows is group * chunk: o, row_max, row_sum. A thread's
    scratch, in elements: q (lanes, head_dim), at least MOST_PARTS, and transposed (head_dim, lanes), s
    (block_k, lanes), then row_max, row_sum, rescale, firsts, ends, positions and slopes (lanes each), where
    lanes is rows rounded up to whole vectors.
    """
    vector = VECTOR_BYTES // itemsize
    rows = group * chunk
    some_rows = (rows + QUERIES - 1) // QUERIES * QUERIES
    lanes = (some_rows + vector - 1) // vector * vector
    few = rows <= FEW
    q_rows = pointer(zero, scratch + slot * scratch_stride)
    qt = at(q_rows, head_dim * lanes)
    s = at(qt, head_dim * lanes)
    row_max = at(s, block_k * lanes)
    row_sum = at(row_max, lanes)
    rescale = at(row_sum, lanes)
    firsts = at(rescale, lanes)
    ends = at(firsts, lanes)
    positions = at(ends, lanes)
    slopes = at(positions, lanes)
    q_row, k_row, v_row, o_row = table[Q, 3], table[K, 3], table[V, 3], table[O, 3]
    part_numbers = rows * (head_dim_v + 2)
    part_bytes = part_numbers * itemsize
    while True:
        task = take_ticket(pointer(slot, tickets))
        if task >= tasks:
            return
        b = sequence_of(sequences, task, num_kv_heads)
        seqlen_q, seqlen_k = sequences[b, SEQLEN_Q], sequences[b, SEQLEN_K]
        diagonal = sequences[b, DIAGONAL]
        chunks = (seqlen_q + chunk - 1) // chunk
        splits = parts_of(seqlen_k, part_keys)
        inner = task - sequences[b, TILES_BEFORE] * num_kv_heads
        kv = inner // (chunks * splits)
        q_start = inner // splits % chunks * chunk
        part = inner % splits
        queries = min(chunk, seqlen_q - q_start)
        batch, query = sequences[b, BATCH_INDEX], sequences[b, FIRST_QUERY] + q_start

        # Lane g * chunk + i is query i of the group's head g.
        for r in range(lanes):
            g, i = r // chunk, r % chunk
            known = g < group and i < queries
            h = kv * group + min(g, group - 1)
            q = pointer(zero, table[Q, 0] + batch * table[Q, 1] + h * table[Q, 2])
            if known:
                put_multiple(
                    at(q_rows, r * head_dim), at(q, (query + i) * q_row), head_dim, numbers[Q_FACTOR]
                )
            else:
                fill(at(q_rows, r * head_dim), head_dim, zero)
            at(row_max, r)[0], at(row_sum, r)[0] = -math.inf, zero
            if features[SINKS] and part == 0:
                sink = pointer(zero, features[SINKS_AT] + h * features[SINKS_HEAD])[0]
                if sink != -math.inf:
                    at(row_max, r)[0], at(row_sum, r)[0] = sink * LOG2E, zero + 1
            put_whole(firsts, r, first_key(q_start + i, seqlen_k, diagonal, features) if known else 0)
            put_whole(ends, r, end_key(q_start + i, seqlen_k, diagonal, features) if known else seqlen_k)
            if features[ALIBI]:
                where = features[SLOPES_AT] + b * features[SLOPES_BATCH] + h * features[SLOPES_HEAD]
                at(positions, r)[0] = q_start + i + diagonal
                at(slopes, r)[0] = -pointer(zero, where)[0] * LOG2E

        if not few:
            pack(q_rows, head_dim, lanes, head_dim, qt, lanes, zero + 1)

        o_part = pointer(zero, parts + task * part_bytes)
        begun = False
        k_first = max(part * part_keys, first_key(q_start, seqlen_k, diagonal, features))
        last_end = end_key(q_start + queries - 1, seqlen_k, diagonal, features)
        k_end = min((part + 1) * part_keys, last_end)
        if few:  # lanes without a row, which dot products leave alone
            fill(s, min(block_k, max(0, k_end - k_first)) * lanes, zero)
        for k_start in range(k_first, k_end, block_k):
            k_rows = min(block_k, k_end - k_start)

            # Pass 1: scores, in units of log2, page by page; their values are fetched meanwhile.
            done = 0
            while done < k_rows:
                head, row, room = rows_together(
                    table, K, kv, k_start + done, k_end - k_start - done, sequences, b, features, slot
                )
                count = min(room, k_rows - done)
                k = at(pointer(zero, head), row * k_row)
                target = at(s, done * lanes)
                if few:
                    v_head, _, _ = rows_together(
                        table, V, kv, k_start + done, count, sequences, b, features, slot
                    )
                    v = at(pointer(zero, v_head), row * v_row)
                    dot_products(
                        k, k_row, count, q_rows, head_dim, some_rows, target, lanes, head_dim, v, v_row, room
                    )
                else:
                    multiply(k, k_row, 1, qt, lanes, target, lanes, count, lanes, head_dim, False)
                done += count
            if features[SOFTCAP]:
                cap_scores(s, k_rows * lanes, numbers[CAP], pointer(zero, 0))
            if features[ALIBI]:
                add_alibi(s, k_rows, lanes, k_start, positions, slopes)
            if features[MASK] != NO_MASK:
                for g in range(group):
                    mask = mask_address(b, kv * group + g, 0, q_start, k_start, features, slot)
                    apply_mask(at(s, g * chunk), k_rows, lanes, queries, mask, zero, byte, features)
            crosses = k_start < first_key(
                q_start + queries - 1, seqlen_k, diagonal, features
            ) or k_start + k_rows > end_key(q_start, seqlen_k, diagonal, features)
            if crosses:
                hide_outside(s, k_rows, lanes, k_start, firsts, ends, -math.inf)

            # Pass 2: probabilities under the maximum so far; what o holds comes to the same maximum.
            grew = online_softmax(s, lanes, k_rows, lanes, row_max, row_sum, rescale)
            if grew and begun:
                scale_rows(o_part, head_dim_v, rows, head_dim_v, rescale)

            # Pass 3: o += p @ v.
            partly = crosses or features[MASK] != NO_MASK
            done = 0
            while done < k_rows:
                head, row, count = rows_together(
                    table, V, kv, k_start + done, min(_PIECE, k_rows - done), sequences, b, features, slot
                )
                # Memory would be idle now: it brings the first keys of the next tile.
                following = k_start + k_rows + done // _PIECE * _FETCHED
                if done < _PIECE * _PIECES and following < k_end:
                    k_head, k_place, wanted = rows_together(
                        table,
                        K,
                        kv,
                        following,
                        min(_FETCHED, k_end - following),
                        sequences,
                        b,
                        features,
                        slot,
                    )
                    row_bytes = k_row * itemsize
                    prefetch_rows(k_head + k_place * row_bytes, wanted, row_bytes, head_dim * itemsize)
                v = at(pointer(zero, head), row * v_row)
                p = at(s, done * lanes)
                if partly and not all_finite(v, v_row, count, head_dim_v):
                    if not begun:
                        clear_rows(o_part, head_dim_v, rows, head_dim_v, zero)
                    for g in range(group):
                        mask = mask_address(b, kv * group + g, 0, q_start, k_start + done, features, slot)
                        where = (q_start, k_start + done, seqlen_k, diagonal, mask)
                        for i in range(queries):
                            for j in range(count):
                                if sees(i, j, where, zero, byte, features):
                                    weight = at(p, j * lanes + g * chunk + i)[0]
                                    for c in range(head_dim_v):
                                        target = at(o_part, (g * chunk + i) * head_dim_v + c)
                                        target[0] += weight * at(v, j * v_row + c)[0]
                else:
                    multiply(p, 1, lanes, v, v_row, o_part, head_dim_v, rows, head_dim_v, count, begun)
                begun = True
                done += count
        if not begun:
            clear_rows(o_part, head_dim_v, rows, head_dim_v, zero)
        tails = at(o_part, rows * head_dim_v)
        for r in range(rows):
            at(tails, r)[0] = at(row_max, r)[0]
            at(tails, rows + r)[0] = at(row_sum, r)[0]

        # The tile of scores is done with, and so is the packed q: room for a weight a part.
        weights = q_rows
        first = task - part
        if fetch_add(pointer(slot, arrivals + 8 * first), 1) < splits - 1:
            continue
        for r in range(rows):
            g, i = r // chunk, r % chunk
            if i >= queries:
                continue
            h = kv * group + g
            o = at(pointer(zero, table[O, 0] + batch * table[O, 1] + h * table[O, 2]), (query + i) * o_row)
            lse = at(pointer(zero, table[LSE, 0] + batch * table[LSE, 1] + h * table[LSE, 2]), query + i)
            first_part = at(pointer(zero, parts + first * part_bytes), r * head_dim_v)
            tails = at(pointer(zero, parts + first * part_bytes), rows * head_dim_v + r)
            merge_row(o, lse, first_part, tails, part_numbers, splits, rows, head_dim_v, weights, zero)


@njit(nogil=True)
def merge_row(o, lse, values, tails, stride, parts, rows, head_dim_v, weights, zero):
    """o and lse of one row from its parts, each under a maximum of its own, `stride` numbers apart.

    values: the row's sum of p @ v; tails: its row_max, and `rows` further its row_sum. The weights' room is
    for MOST_PARTS numbers: more parts are merged as many at a time.
    """
    most = zero - math.inf
    for part in range(parts):
        most = max(most, at(tails, part * stride)[0])
    total = zero + 0.0
    for part in range(parts):
        part_max, part_sum = at(tails, part * stride)[0], at(tails, part * stride + rows)[0]
        if part_max != -math.inf or part_sum != 0:  # else none of its keys is seen
            total += 2.0 ** (part_max - most) * part_sum
    inverse = 1 / total if total != 0 else zero + 0.0
    for first in range(0, parts, MOST_PARTS):
        count = min(MOST_PARTS, parts - first)
        for i in range(count):
            place = (first + i) * stride
            unseen = at(tails, place)[0] == -math.inf and at(tails, place + rows)[0] == 0
            at(weights, i)[0] = zero if unseen else 2.0 ** (at(tails, place)[0] - most) * inverse
        multiply(weights, 0, 1, at(values, first * stride), stride, o, 0, 1, head_dim_v, count, first > 0)
    at(lse, 0)[0] = most * LN2 + math.log(total)
