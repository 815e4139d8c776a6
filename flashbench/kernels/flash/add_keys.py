"""One tile of keys of the forward pass: forward.py explains the names and passes.

`add_keys` is for products that read p in float32 or float64. `add_weighted_keys` is for exact products: their
weights are made from scores at once.
"""

from __future__ import annotations

from flashbench.codegen.pointers import at, pointer
from flashbench.codegen.steps import step
from flashbench.kernels.call.arrays import rows_from
from flashbench.kernels.call.visibility import (
    add_visible_to_queries,
    all_finite_once,
    clear_sums,
    hides_some,
)
from flashbench.kernels.flash.gather import K_ROWS, VALUES, check_rows, keys_operand, operand_of
from flashbench.kernels.flash.scratch import room_of_v, room_of_weights
from flashbench.kernels.flash.tile_steps import draws_of, tile_scores
from flashbench.kernels.products.words import halves
from flashbench.kernels.tile.dropout import drop
from flashbench.kernels.tile.maximum import put_maximum
from flashbench.kernels.tile.softmax import online_softmax


@step
def add_keys(product, call, scratch, queries, keys, rows, begun):
    """Update row_max, row_sum and o with one tile of keys. begun: an earlier tile has already written o."""
    s, lanes, features, columns = scratch.s, queries.lanes, call.features, call.sizes.head_dim_v

    # Pass 1: scores in log2 units, so that softmax needs exp2 only.
    nowhere = pointer(call.zero, 0)
    k = keys_operand(product, call, queries, keys, rows.k, call.sizes.head_dim, K_ROWS, scratch.rows)
    factor = tile_scores(product, call, scratch, s, queries, keys, k, nowhere)

    # Pass 2: s becomes p = exp2(s - row_max). If row_max grows, rescale the older sums to the new maximum.
    lane_state = scratch.row_max, scratch.row_sum, scratch.rescale
    grew = online_softmax(s, lanes, keys.rows, lanes, lane_state, factor)
    if grew and begun:
        product.scale(rows.sums, queries.rows, columns, scratch.rescale)
    if features.dropout:
        drop(s, keys.rows, lanes, draws_of(queries, keys, features))

    # Pass 3: o += p @ v.
    if hides_some(keys) and not all_finite_once(rows.v_is_finite, rows.v, queries.sequence.seqlen_k, columns):
        if not begun:
            clear_sums(rows.sums, queries.rows, columns, call.zero)
        v = rows_from(rows.v, keys.start)
        add_visible_to_queries(s, queries, keys, v, rows.sums, columns, features)
    else:
        w = product.weights(s, lanes, keys.rows, room_of_weights(call, scratch, queries))
        add_product(product, call, scratch, queries, keys, rows, w, begun)


@step
def add_product(product, call, scratch, queries, keys, rows, w, begun):
    """Pass 3: o += p @ v. w: the weights."""
    v, columns = rows_from(rows.v, keys.start), call.sizes.head_dim_v
    place, unmade = operand_of(call, queries, keys, VALUES, room_of_v(product, call, scratch))
    check_rows(product, call, v, unmade, columns)
    v_tile = product.values(v, unmade, columns, place)
    product.add_to_queries(w, queries.lanes, v_tile, rows.sums, queries.rows, columns, keys.rows, begun)


@step
def add_weighted_keys(product, call, scratch, queries, keys, rows, begun):
    """The same for an exact product, by a guess: row_max seldom grows after the first tile of keys.

    So weights are made under the old row_max while the tile's maximum is taken. If row_max is too small, it
    grows, and weights are made again.
    """
    features, columns = call.features, call.sizes.head_dim_v
    spoiled = hides_some(keys) and not all_finite_once(
        rows.v_is_finite, rows.v, queries.sequence.seqlen_k, columns
    )
    if spoiled or features.dropout:  # these need p in float32
        add_keys(product, call, scratch, queries, keys, rows, begun)
        return

    s, lanes = scratch.s, queries.lanes
    k = keys_operand(product, call, queries, keys, rows.k, call.sizes.head_dim, K_ROWS, scratch.rows)
    factor = tile_scores(product, call, scratch, s, queries, keys, k, pointer(call.zero, 0))

    lane_state = scratch.row_max, scratch.row_sum, scratch.rescale
    w = room_of_weights(call, scratch, queries)
    if not begun or put_weights(product, scratch, keys, lanes, factor, w):
        if put_maximum(s, keys.rows, lanes, lane_state, factor) and begun:
            product.scale(rows.sums, queries.rows, columns, scratch.rescale)
        put_weights(product, scratch, keys, lanes, factor, w)
    for lane in range(lanes):
        at(scratch.row_sum, lane)[0] = at(scratch.rescale, lane)[0]

    add_product(product, call, scratch, queries, keys, rows, halves(w), begun)


@step
def put_weights(product, scratch, keys, lanes, factor, w):
    """w = the weights of scratch.s under row_max, scratch.rescale = row_sum with them.

    Returns whether row_max is too small for them.
    """
    lane_state = scratch.row_max, scratch.row_sum, scratch.rescale
    return product.exponentiate(scratch.s, keys.rows, lanes, lane_state, factor, w)
