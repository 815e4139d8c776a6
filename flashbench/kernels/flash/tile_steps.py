"""One tile of scores, and of their gradients: what forward, backward and the mask's gradient share.

The steps follow the definition: s = scale q k^T, softcap, ALiBi, mask, what hides keys; p = softmax; dropout.
"""

from __future__ import annotations

import math

from numba import njit

from flashbench.codegen.pointers import at, pointer, prefetch_rows
from flashbench.kernels.call.features import (
    ALIBI,
    CAP,
    DROPOUT,
    KEEP_FACTOR,
    MASK_KEY,
    MASK_ROW,
    MASK_SIZE,
    PARTLY,
    SEED,
    SLOPES_AT,
    SLOPES_BATCH,
    SLOPES_HEAD,
    SOFTCAP,
    THRESHOLD,
)
from flashbench.kernels.call.visibility import LOG2E, apply_mask, clear_masked
from flashbench.kernels.products.fma import multiply
from flashbench.kernels.tile.dropout import drop_gradients
from flashbench.kernels.tile.edit import pack, row_dots
from flashbench.kernels.tile.scores import add_alibi, cap_scores, hide_outside
from flashbench.kernels.tile.softmax import probabilities, score_gradients

_PIECE = 48  # keys: whole tiles of the products, whose heights all but one divide it


@njit(nogil=True)
def put_alibi(positions, slopes, q_start, lanes, diagonal, b, h, zero, features):
    """Where each query of a tile stands among the keys, and its slope in units of log2, for `add_alibi`."""
    where = features[SLOPES_AT] + b * features[SLOPES_BATCH] + h * features[SLOPES_HEAD]
    slope = pointer(zero, where)[0]
    for lane in range(lanes):
        at(positions, lane)[0] = q_start + lane + diagonal
        at(slopes, lane)[0] = -slope * LOG2E


@njit(nogil=True)
def tile_scores(
    s,
    k_tile,
    k_row,
    qt,
    lanes,
    q_rows,
    k_rows,
    head_dim,
    k_start,
    tables,  # firsts, ends, positions and slopes of the lanes
    cap_slopes,  # where tanh's derivatives go; the null pointer: nowhere
    mask,
    seen,
    hidden,  # the first key that some query does not see, by causality or window; k_rows: none
    told,  # zero, byte, features and numbers, as the kernels have them
):
    """s = k @ qt in units of log2, as the features change it; -inf where it is hidden."""
    firsts, ends, positions, slopes = tables
    zero, byte, features, numbers = told
    if seen == PARTLY and features[MASK_KEY] == 1 and features[MASK_ROW] != 0:
        # A mask of its own for every pair is long, and comes from memory: it is asked for piece by piece.
        size = features[MASK_SIZE]
        for start in range(0, k_rows, _PIECE):
            keys = min(_PIECE, k_rows - start)
            prefetch_rows(mask + start * size, q_rows, features[MASK_ROW] * size, keys * size)
            k_piece = at(k_tile, start * k_row)
            multiply(k_piece, k_row, 1, qt, lanes, at(s, start * lanes), lanes, keys, lanes, head_dim, False)
    else:
        multiply(k_tile, k_row, 1, qt, lanes, s, lanes, k_rows, lanes, head_dim, False)
    if features[SOFTCAP]:
        cap_scores(s, k_rows * lanes, numbers[CAP], cap_slopes)
    if features[ALIBI]:
        add_alibi(s, k_rows, lanes, k_start, positions, slopes)
    if seen == PARTLY:
        apply_mask(s, k_rows, lanes, q_rows, mask, zero, byte, features)
    if hidden < k_rows:
        place = at(s, hidden * lanes)
        hide_outside(place, k_rows - hidden, lanes, k_start + hidden, firsts, ends, -math.inf)


@njit(nogil=True)
def put_rows(do, do_row, o, o_row, lse, lse_row, q_rows, lanes, head_dim_v, scale, dot, lse2, delta, zero):
    """What the gradients of a tile need of its queries: do packed, lse in units of log2, delta = sum(o * do).

    dot and delta are multiplied by `scale`, so that gradients of scores come out multiplied by it.
    """
    pack(do, do_row, q_rows, head_dim_v, dot, lanes, scale)
    row_dots(o, o_row, do, do_row, q_rows, head_dim_v, scale, delta)
    for r in range(q_rows):
        row_lse = at(lse, r * lse_row)[0]
        # +inf makes every probability 0: for a row that sees no key (lse = -inf), and for one whose logits
        # are so far below 0 that lse does not tell 1 from 0, as where its mask is the lowest float.
        at(lse2, r)[0] = row_lse - 1.0
        tells_nothing = row_lse < 0 and at(lse2, r)[0] == row_lse
        at(lse2, r)[0] = math.inf if tells_nothing else row_lse * LOG2E
    for r in range(q_rows, lanes):
        at(lse2, r)[0] = math.inf
        at(delta, r)[0] = zero


@njit(nogil=True)
def tile_gradients(
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
    hidden,  # the first key that some query does not see, by causality or window; k_rows: none
    told,
):
    """From scores in p: ds, the gradients of what softmax was applied to; and p as o was made of it.

    Forward: p = exp2(s - lse2), o = p @ v. So dp = do @ v.T, and ds = p * (dp - delta); 0 where it is hidden.
    """
    firsts, ends, _, _ = tables
    zero, byte, features, numbers = told
    probabilities(p, lanes, k_rows, lanes, lse2)
    multiply(v_tile, v_row, 1, dot, lanes, ds, lanes, k_rows, lanes, head_dim_v, False)
    if features[DROPOUT]:
        factor, seed, threshold = numbers[KEEP_FACTOR], features[SEED], features[THRESHOLD]
        drop_gradients(ds, p, delta, factor, k_rows, lanes, k_start, q_start, h, b, seed, threshold)
    else:
        score_gradients(ds, p, lanes, k_rows, lanes, delta)
    # A value that is not finite makes 0 * NaN of what is hidden.
    if hidden < k_rows:
        place = at(ds, hidden * lanes)
        hide_outside(place, k_rows - hidden, lanes, k_start + hidden, firsts, ends, zero)
    if seen == PARTLY:
        clear_masked(ds, k_rows, lanes, q_rows, mask, zero, byte, features)
