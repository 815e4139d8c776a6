"""What standard attention does to a row of scores between its products: softmax and its gradient."""

from __future__ import annotations

import math

from numba import njit

from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.call.features import (
    ALIBI,
    BATCH_INDEX,
    DIAGONAL,
    DROPOUT,
    FIRST_KEY,
    FIRST_QUERY,
    KEEP_FACTOR,
    MASK,
    NO_MASK,
    SEED,
    SEQLEN_K,
    SEQLEN_Q,
    SEQUENCE_COLUMNS,
    SINKS,
    SINKS_AT,
    SINKS_HEAD,
    SLOPES_AT,
    SLOPES_BATCH,
    SLOPES_HEAD,
    THRESHOLD,
)
from flashbench.kernels.row.dropout import drop_gradient_row, drop_row
from flashbench.kernels.row.features import alibi_row, scale_row, softcap_gradient_row, softcap_row
from flashbench.kernels.row.masks import clear_masked, mask_scores, visible_range
from flashbench.kernels.row.softmax import gradient_row, mean_gradient, natural_softmax_row, softmax_row

LN2 = math.log(2.0)

# Rows of the tables of arrays: (address, batch stride, head stride, row stride), the row's in elements.
# Of P and what is like it, the address alone. TANH and DROPPED are P itself where they are not kept.
Q, K, V, O, LSE, P, TANH, DROPPED, DP, DO, DQ, DK, DV, DMASK = range(14)

# Further columns of the table of sequences: columns of its slabs, and where the first of them begins.
COLUMNS, SLAB = SEQUENCE_COLUMNS, SEQUENCE_COLUMNS + 1


@njit(nogil=True)
def sequence_row(sequences, b):
    """A row of the table of sequences as a tuple, which costs less than an array to hand on."""
    row = sequences[b]
    return row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8]


@njit(nogil=True)
def rows_of(zero, table, array, sequence, first, h):
    """Pointer to one head's rows of a sequence, `first` saying where a batch entry's rows begin."""
    head = pointer(zero, table[array, 0] + sequence[BATCH_INDEX] * table[array, 1] + h * table[array, 2])
    return at(head, first * table[array, 3])


@njit(nogil=True)
def queries(zero, table, array, sequence, h):
    return rows_of(zero, table, array, sequence, sequence[FIRST_QUERY], h)


@njit(nogil=True)
def keys(zero, table, array, sequence, h):
    return rows_of(zero, table, array, sequence, sequence[FIRST_KEY], h)


@njit(nogil=True)
def slab(zero, table, array, sequence, h):
    """Pointer to the scores, or what is like them, of one head of a sequence."""
    size = sequence[SEQLEN_Q] * sequence[COLUMNS]
    return at(pointer(zero, table[array, 0]), sequence[SLAB] + h * size)


@njit(nogil=True)
def sink_of(zero, features, h):
    """The logit that joins the softmax of a head's rows; -inf is none."""
    if not features[SINKS]:
        return zero - math.inf
    return pointer(zero, features[SINKS_AT] + h * features[SINKS_HEAD])[0] + 0.0


@njit(nogil=True)
def softmax_of_row(zero, s, tanh, dropped, lse, place, features, numbers, softcap, natural):
    """A row of scores becomes P's, its lse is stored, and what features make of both is kept where asked for.

    place: (its sequence's number, head, query, the sequence's row of the table). tanh and dropped may be s.
    """
    b, h, i, sequence = place
    columns, seqlen_k, diagonal = sequence[COLUMNS], sequence[SEQLEN_K], sequence[DIAGONAL]
    first, end = visible_range(features, i, seqlen_k, diagonal)
    seen = end - first
    if softcap != 0:
        softcap_row(at(s, first), at(tanh, first), seen, softcap)
    if features[ALIBI]:
        address = features[SLOPES_AT] + b * features[SLOPES_BATCH] + h * features[SLOPES_HEAD]
        alibi_row(at(s, first), seen, pointer(zero, address)[0], i + diagonal - first)
    if features[MASK] != NO_MASK:
        mask_scores(s, zero, features, b, h, i, first, end)

    if natural:
        total = natural_softmax_row(s, columns, first, end, sink_of(zero, features, h), lse)
        lse[0] = lse[0] + math.log(total)
    else:
        total = softmax_row(s, columns, first, end, lse)
        lse[0] = lse[0] * LN2 + math.log(total)

    if not total > 0 and features[MASK] != NO_MASK:
        clear_masked(s, zero, features, b, h, i, first, end)
    if features[DROPOUT]:
        seed, threshold = features[SEED], features[THRESHOLD]
        drop_row(s, dropped, columns, first, end, numbers[KEEP_FACTOR], i, h, b, seed, threshold)


@njit(nogil=True)
def gradient_of_row(zero, dp, p, dropped, lse, place, features, numbers, scale):
    """A row of dp becomes scale * ds; returns what its sink gets."""
    b, h, i, sequence = place
    first, end = visible_range(features, i, sequence[SEQLEN_K], sequence[DIAGONAL])
    seen = end - first
    # Where p is dropped so is dp on its way back, which makes no difference to their product.
    delta = mean_gradient(at(dp, first), at(dropped, first), seen)
    spoiled = features[MASK] != NO_MASK and not math.isfinite(delta)  # by what the mask hides, perhaps
    if spoiled:
        clear_masked(dp, zero, features, b, h, i, first, end)
        delta = mean_gradient(at(dp, first), at(dropped, first), seen)
    if features[DROPOUT]:
        drop_gradient_row(at(dp, first), at(dropped, first), seen, numbers[KEEP_FACTOR])
    gradient_row(dp, p, sequence[COLUMNS], first, end, delta, scale)
    if spoiled:
        clear_masked(dp, zero, features, b, h, i, first, end)
    if not features[SINKS] or lse[0] == -math.inf:
        return 0.0
    return -math.exp(sink_of(zero, features, h) - lse[0]) * delta


@njit(nogil=True)
def mask_gradient(zero, table, sequences, features, mask_step, part, softcap, scale):
    """dmask gets ds of a part, (first, end) of each axis, and ds becomes scale times ds by the product.

    Strides of 0 add up along the axes that the mask is broadcast along, in an order that the part decides.
    """
    for b in range(part[0], part[1]):
        sequence = sequence_row(sequences, b)
        for h in range(part[2], part[3]):
            dmask = pointer(zero, table[DMASK, 0] + b * table[DMASK, 1] + h * table[DMASK, 2])
            for i in range(part[4], min(part[5], sequence[SEQLEN_Q])):
                first, end = visible_range(features, i, sequence[SEQLEN_K], sequence[DIAGONAL])
                first, end = max(first, part[6]), min(end, part[7])
                if end <= first:
                    continue
                place = i * sequence[COLUMNS]
                ds = at(slab(zero, table, DP, sequence, h), place)
                target = at(dmask, i * table[DMASK, 3])
                if mask_step == 0:
                    total = 0.0
                    for j in range(first, end):
                        total += at(ds, j)[0]
                    target[0] += total
                else:
                    for j in range(first, end):
                        at(target, j)[0] += at(ds, j)[0]
                scale_row(at(ds, first), end - first, scale)
                if softcap != 0:
                    tanh = at(slab(zero, table, TANH, sequence, h), place + first)
                    softcap_gradient_row(at(ds, first), tanh, end - first)
