"""One tile of scores and of its gradients: the steps that forward, backward and mask_gradient share.

The order is that of the definition: s = scale q k^T, softcap, ALiBi, mask, causality and window; then
p = softmax(s); then dropout.
"""

from __future__ import annotations

import math

from flashbench.codegen.pointers import at, prefetch_rows
from flashbench.codegen.steps import step
from flashbench.kernels.call.arrays import rows_from
from flashbench.kernels.call.features import sink_of, slope_of
from flashbench.kernels.call.masks import PARTLY, apply_mask, clear_masked
from flashbench.kernels.maths.exp2 import LOG2E
from flashbench.kernels.maths.rows import row_dots
from flashbench.kernels.tile.dropout import Draws, drop_gradients
from flashbench.kernels.tile.scores import add_alibi, cap_scores, hide_outside
from flashbench.kernels.tile.softmax import probabilities, score_gradients

_PIECE = 48  # keys: a multiple of all register-tile heights but one, so that a piece is whole register tiles


@step
def start_of_row(features, h):
    """(row_max, row_sum) before the first key. A sink counts as one more key, with value 0."""
    sink = sink_of(features, h)
    if sink != -math.inf:
        return sink * LOG2E, features.zero + 1
    return sink, features.zero


@step
def put_alibi(scratch, queries, features):
    """Write the positions and the negative slopes of the queries, in log2 units, for `add_alibi`."""
    slope = slope_of(features, queries.b, queries.h)
    for lane in range(queries.lanes):
        at(scratch.positions, lane)[0] = queries.start + lane + queries.sequence.diagonal
        at(scratch.slopes, lane)[0] = -slope * LOG2E


@step
def tile_scores(product, call, scratch, s, queries, keys, k, cap_slopes):
    """s = k @ qt, then the features (`finish_tile`). k: the tile's operand of `product.scores`."""
    features, lanes, depth = call.features, queries.lanes, call.sizes.head_dim
    if keys.shown == PARTLY and features.mask_key == 1 and features.mask_row != 0:
        # A full mask is as large as the scores and comes from memory: prefetch it piece by piece.
        size = features.mask_size
        for start in range(0, keys.rows, _PIECE):
            count = min(_PIECE, keys.rows - start)
            prefetch_rows(keys.mask + start * size, queries.rows, features.mask_row * size, count * size)
            product.scores(at(s, start * lanes), rows_from(k, start), scratch.qt, lanes, count, depth)
    else:
        product.scores(s, k, scratch.qt, lanes, keys.rows, depth)
    return finish_tile(product, call, scratch, s, queries, keys, cap_slopes)


@step
def finish_tile(product, call, scratch, s, queries, keys, cap_slopes):
    """Apply the features to a tile of k @ qt. -inf where a pair is hidden.

    cap_slopes: output for the derivative of softcap's tanh; null: not stored. Returns the factor that turns s
    into log2 units; None: s is in log2 units.
    """
    features, lanes = call.features, queries.lanes
    bare = features.cap == 0 and features.alibi == 0 and keys.shown != PARTLY and features.q_factor > 0
    factor = product.finish_scores(s, keys.rows * lanes, features.q_factor, not bare)
    if features.cap != 0:
        cap_scores(s, keys.rows * lanes, features.cap, cap_slopes)
    if features.alibi:
        add_alibi(s, keys.rows, lanes, keys.start, scratch.positions, scratch.slopes)
    if keys.shown == PARTLY:
        apply_mask(s, keys.rows, lanes, queries.rows, keys.mask, features)
    hide_limits(scratch, s, queries, keys, -math.inf)
    return factor


@step
def hide_limits(scratch, tile, queries, keys, value):
    """Write `value` where causality or the window hides a pair of the tile."""
    if keys.hidden < keys.rows:
        place, first = at(tile, keys.hidden * queries.lanes), keys.start + keys.hidden
        hide_outside(
            place, keys.rows - keys.hidden, queries.lanes, first, scratch.firsts, scratch.ends, value
        )


@step
def draws_of(queries, keys, features):
    """The position of a tile in the stream of random words."""
    return Draws(keys.start, queries.start, queries.h, queries.b, features.seed, features.threshold)


@step
def put_rows(product, call, scratch, queries, do, o, lse, scale):
    """Write per-query inputs of the gradients: dot = packed do, lse2 = lse in log2 units, delta = sum(o do).

    dot and delta are multiplied by `scale`, so that ds comes out multiplied by it. An exact product packs do
    as it is: then scale must be 1, and whoever uses ds multiplies.
    """
    columns = call.sizes.head_dim_v
    product.pack(do, queries.rows, columns, scratch.dot, queries.lanes, scale)
    row_dots(o.at, o.row, do.at, do.row, queries.rows, columns, scale, scratch.delta)
    for r in range(queries.rows):
        row_lse = at(lse.at, r * lse.row)[0]
        # lse2 = +inf makes every probability 0. Two kinds of row need it: a row with no visible key
        # (lse = -inf), and a row whose lse is so far below 0 that lse - 1 == lse, as when its mask is the
        # lowest float. Such an lse cannot tell probability 1 from 0.
        at(scratch.lse2, r)[0] = row_lse - 1.0
        lse_is_useless = row_lse < 0 and at(scratch.lse2, r)[0] == row_lse
        at(scratch.lse2, r)[0] = math.inf if lse_is_useless else row_lse * LOG2E
    for r in range(queries.rows, queries.lanes):
        at(scratch.lse2, r)[0] = math.inf
        at(scratch.delta, r)[0] = call.zero


@step
def tile_gradients(product, call, scratch, queries, keys, v, factor):
    """scratch.p holds scores s: replace them by p (after dropout), and write ds to scratch.ds.

    factor: from `tile_scores`. v: the tile's operand of `product.scores`.

    Forward: p = exp2(s - lse2), o = p @ v. So dp = do @ v.T and ds = p * (dp - delta); 0 where a pair is
    hidden.
    """
    p, ds, lanes, features = scratch.p, scratch.ds, queries.lanes, call.features
    probabilities(p, lanes, keys.rows, lanes, scratch.lse2, factor)
    product.scores(ds, v, scratch.dot, lanes, keys.rows, call.sizes.head_dim_v)
    if features.dropout:
        draws = draws_of(queries, keys, features)
        drop_gradients(ds, p, scratch.delta, features.keep_factor, keys.rows, lanes, draws)
    else:
        score_gradients(ds, p, lanes, keys.rows, lanes, scratch.delta)
    # A hidden pair has p = 0, but with a v that is not finite its ds is 0 * NaN.
    hide_limits(scratch, ds, queries, keys, call.zero)
    if keys.shown == PARTLY:
        clear_masked(ds, keys.rows, lanes, queries.rows, keys.mask, features)
