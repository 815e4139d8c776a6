"""The gradient of an additive mask: of the scores it was added to, summed where it was broadcast.

A pass of its own, and only on request: each task owns some entries of the mask and computes anew the tiles
of scores of all batch entries, heads, queries or keys that share them, in a fixed order. So the sums do not
depend on the number of threads, and no seqlen_q x seqlen_k array but the gradient itself is needed.
"""

from __future__ import annotations

from flashbench.codegen.atomics import take_ticket
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
    Q_FACTOR,
    SEQLEN_K,
    SEQLEN_Q,
    end_key,
    first_key,
    mask_address,
    mask_on_tile,
)
from flashbench.kernels.call.visibility import hidden_from, put_limits
from flashbench.kernels.flash.tile_steps import put_alibi, put_rows, tile_gradients, tile_scores
from flashbench.kernels.tile.edit import pack

VECTOR_BYTES = ISA.vector_bytes

# Rows of the table of arrays, as in the backward pass, and the mask's gradient.
Q, K, V, O, LSE, DO, DMASK = range(7)


@compiled
def flash_mask_gradient(
    zero,  # of the arrays' dtype: tells it to the compiler
    byte,
    itemsize,
    table,
    sequences,
    features,
    numbers,
    tickets,
    scratch,
    scratch_stride,
    slot,
    shape,  # the mask's own: 1 where it is broadcast
    num_heads,
    group,
    head_dim,
    head_dim_v,
    block_q,
    block_k,
):
    """Work on pieces of the mask until none is left; its gradient is contiguous, and zero at first.

    A thread's scratch, in elements, is the backward pass's with one more tile (block_k, lanes), where the
    gradients of a piece are added up, at its end.
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
    firsts = at(delta, most_lanes)
    ends = at(firsts, most_lanes)
    positions = at(ends, most_lanes)
    slopes = at(positions, most_lanes)
    tables = (firsts, ends, positions, slopes)
    told = (zero, byte, features, numbers)
    total = at(slopes, most_lanes)
    q_row, k_row, v_row, o_row, do_row = table[Q, 3], table[K, 3], table[V, 3], table[O, 3], table[DO, 3]
    mask_batch, mask_heads, mask_q, mask_k = shape
    # Pieces along an axis of the mask: tiles, or the whole of it where it is broadcast.
    q_pieces = (mask_q + block_q - 1) // block_q
    k_pieces = (mask_k + block_k - 1) // block_k
    while True:
        task = take_ticket(ticket)
        if task >= mask_batch * mask_heads * q_pieces * k_pieces:
            return
        k_piece, rest = task % k_pieces, task // k_pieces
        q_piece, rest = rest % q_pieces, rest // q_pieces
        mask_h, mask_b = rest % mask_heads, rest // mask_heads
        for place in range(block_k * most_lanes):
            at(total, place)[0] = zero
        batches = (mask_b, mask_b + 1) if mask_batch > 1 else (0, len(sequences))
        heads = (mask_h, mask_h + 1) if mask_heads > 1 else (0, num_heads)
        for b in range(*batches):
            seqlen_q, seqlen_k = sequences[b, SEQLEN_Q], sequences[b, SEQLEN_K]
            diagonal = sequences[b, DIAGONAL]
            batch, query = sequences[b, BATCH_INDEX], sequences[b, FIRST_QUERY]
            key = sequences[b, FIRST_KEY]
            q_from, q_to = 0, seqlen_q
            if mask_q > 1:
                q_from, q_to = q_piece * block_q, min(seqlen_q, (q_piece + 1) * block_q)
            for h in range(*heads):
                kv = h // group
                q_head = pointer(zero, table[Q, 0] + batch * table[Q, 1] + h * table[Q, 2])
                k_head = pointer(zero, table[K, 0] + batch * table[K, 1] + kv * table[K, 2])
                v_head = pointer(zero, table[V, 0] + batch * table[V, 1] + kv * table[V, 2])
                o_head = pointer(zero, table[O, 0] + batch * table[O, 1] + h * table[O, 2])
                lse_head = pointer(zero, table[LSE, 0] + batch * table[LSE, 1] + h * table[LSE, 2])
                do_head = pointer(zero, table[DO, 0] + batch * table[DO, 1] + h * table[DO, 2])
                for q_start in range(q_from, q_to, block_q):
                    q_rows = min(block_q, q_to - q_start)
                    lanes = (q_rows + vector - 1) // vector * vector
                    k_from = first_key(q_start, seqlen_k, diagonal, features)
                    k_to = end_key(q_start + q_rows - 1, seqlen_k, diagonal, features)
                    if mask_k > 1:
                        k_from, k_to = max(k_from, k_piece * block_k), min(k_to, (k_piece + 1) * block_k)
                    if k_from >= k_to:
                        continue
                    row = query + q_start
                    pack(at(q_head, row * q_row), q_row, q_rows, head_dim, qt, lanes, numbers[Q_FACTOR])
                    put_rows(
                        at(do_head, row * do_row),
                        do_row,
                        at(o_head, row * o_row),
                        o_row,
                        at(lse_head, row * table[LSE, 3]),
                        table[LSE, 3],
                        q_rows,
                        lanes,
                        head_dim_v,
                        zero + 1,
                        dot,
                        lse2,
                        delta,
                        zero,
                    )
                    if features[ALIBI]:
                        put_alibi(positions, slopes, q_start, lanes, diagonal, b, h, zero, features)
                    put_limits(firsts, ends, q_start, q_rows, lanes, seqlen_k, diagonal, features)
                    # A tile begins where its piece does, so that its first key is the total's first.
                    first_tile = k_from // block_k * block_k
                    for k_start in range(first_tile, k_to, block_k):
                        k_rows = min(block_k, k_to - k_start)
                        mask = mask_address(b, h, 0, q_start, k_start, features, slot)
                        seen = mask_on_tile(mask, q_rows, k_rows, zero, byte, features)
                        if seen == HIDDEN:
                            continue
                        hidden = hidden_from(q_start, q_rows, k_start, k_rows, seqlen_k, diagonal, features)
                        tile_scores(
                            p,
                            at(k_head, (key + k_start) * k_row),
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
                        tile_gradients(
                            p,
                            ds,
                            at(v_head, (key + k_start) * v_row),
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
                        # Padded lanes of ds are zero: their probability is.
                        for j in range(k_rows):
                            for lane in range(lanes):
                                at(total, j * most_lanes + lane)[0] += at(ds, j * lanes + lane)[0]

        dmask = pointer(zero, table[DMASK, 0] + mask_b * table[DMASK, 1] + mask_h * table[DMASK, 2])
        dmask_row = table[DMASK, 3]
        for j in range(block_k):
            key_place = k_piece * block_k + j if mask_k > 1 else 0
            for lane in range(most_lanes):
                row_place = q_piece * block_q + lane if mask_q > 1 else 0
                if key_place < mask_k and row_place < mask_q and (mask_q == 1 or lane < block_q):
                    at(dmask, row_place * dmask_row + key_place)[0] += at(total, j * most_lanes + lane)[0]
