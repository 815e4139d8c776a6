"""A tile of queries for products of 16-bit operands: scores of the next tile of keys are computed early.

forward.py explains the names and passes. Here pass 2 of a tile of keys goes over it part by part, and after
each part comes a part of pass 1 of the next tile. Tile registers work on their own: they multiply while the
vector units exponentiate the next part. Pass 2 leaves p rounded, as pass 3 reads it.
"""

from __future__ import annotations

from flashbench.codegen.pointers import at, pointer
from flashbench.codegen.steps import step
from flashbench.kernels.call.arrays import rows_from
from flashbench.kernels.call.tiles import first_cursor, next_keys
from flashbench.kernels.call.visibility import (
    add_visible_to_queries,
    all_finite_once,
    clear_sums,
    hides_some,
)
from flashbench.kernels.flash.gather import operand_of
from flashbench.kernels.flash.scratch import room_of_v, tile_of_scores
from flashbench.kernels.flash.tile_steps import draws_of, finish_tile
from flashbench.kernels.products.words import halves
from flashbench.kernels.tile.dropout import drop
from flashbench.kernels.tile.maximum import put_maximum
from flashbench.kernels.tile.softmax import online_softmax

_PART = 32  # keys: two tile registers of scores


@step
def begin_scores(product, call, scratch, queries, s, keys, k):
    """s = k @ qt of a whole tile."""
    for first in range(0, keys.rows, _PART):
        put_part(product, call, scratch, queries, s, keys, k, first)


@step
def put_part(product, call, scratch, queries, s, keys, k, first):
    """s = k @ qt of up to _PART keys from `first` on."""
    rows, lanes = min(_PART, keys.rows - first), queries.lanes
    product.scores(at(s, first * lanes), rows_from(k, first), scratch.qt, lanes, rows, call.sizes.head_dim)


@step
def keys_operand(product, call, scratch, keys, k):
    """The operand of `product.scores`. k: the rows of the sequence."""
    return product.keys(rows_from(k, keys.start), keys.rows, call.sizes.head_dim, scratch.rows)


@step
def attend_tiles(product, call, scratch, queries, rows):
    """Add all visible keys to the sums of a tile of queries."""
    tiles = 0
    keys, cursor = next_keys(call, queries, first_cursor(queries, call.features))
    if keys.rows > 0:
        k, s = keys_operand(product, call, scratch, keys, rows.k), tile_of_scores(call, scratch, queries, 0)
        begin_scores(product, call, scratch, queries, s, keys, k)
    while keys.rows > 0:
        following, cursor = next_keys(call, queries, cursor)
        add_keys(product, call, scratch, queries, keys, following, rows, tiles)
        tiles += 1
        keys = following
    if tiles == 0:
        clear_sums(rows.sums, queries.rows, call.sizes.head_dim_v, call.zero)


@step
def add_keys(product, call, scratch, queries, keys, following, rows, tiles):
    """Add one tile of keys, number `tiles`, whose scores are there. Compute those of the tile after it."""
    lanes, features, columns = queries.lanes, call.features, call.sizes.head_dim_v
    s = tile_of_scores(call, scratch, queries, tiles)
    next_s = tile_of_scores(call, scratch, queries, tiles + 1)
    factor = finish_tile(product, call, scratch, s, queries, keys, pointer(call.zero, 0))
    v = rows_from(rows.v, keys.start)
    spoiled = hides_some(keys) and not all_finite_once(
        rows.v_is_finite, rows.v, queries.sequence.seqlen_k, columns
    )
    plain = spoiled or features.dropout != 0  # these need p in float32

    lane_state = scratch.row_max, scratch.row_sum, scratch.rescale
    if plain:
        grew = online_softmax(s, lanes, keys.rows, lanes, lane_state, factor)
    else:
        grew = put_maximum(s, keys.rows, lanes, lane_state, factor)
    if grew and tiles > 0:
        product.scale(rows.sums, queries.rows, columns, scratch.rescale)

    next_k = keys_operand(product, call, scratch, following, rows.k)
    for first in range(0, max(keys.rows, following.rows), _PART):
        count = 0 if plain else min(_PART, keys.rows - first)
        next_count, place = min(_PART, following.rows - first), first * lanes
        tile = at(s, place), count, scratch.row_max, scratch.row_sum, factor
        if count > 0 and next_count > 0:
            of_next = at(next_s, place), next_count, rows_from(next_k, first)
            product.weigh_and_score(tile, of_next, scratch.qt, lanes, call.sizes.head_dim)
        elif count > 0:
            product.exponentiate(tile, lanes)
        elif next_count > 0:
            put_part(product, call, scratch, queries, next_s, following, next_k, first)

    if features.dropout:
        drop(s, keys.rows, lanes, draws_of(queries, keys, features))
    if spoiled:
        if tiles == 0:
            clear_sums(rows.sums, queries.rows, columns, call.zero)
        add_visible_to_queries(s, queries, keys, v, rows.sums, columns, features)
        return
    w = product.weights(s, lanes, keys.rows) if plain else halves(s)
    place, unmade = operand_of(call, queries, keys, room_of_v(call, scratch))
    v_tile = product.values(v, unmade, columns, place)
    product.add_to_queries(w, lanes, v_tile, rows.sums, queries.rows, columns, keys.rows, tiles > 0)
