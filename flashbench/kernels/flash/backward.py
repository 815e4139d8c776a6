"""Tiled attention, backward by recomputation: no seqlen_q x seqlen_k array anywhere (Dao et al. 2022).

A task is one tile of queries of one head, as in the forward pass (forward.py explains the names). Only this
task writes its rows of dq. All tasks of a key/value head add to the same dk and dv: they form a chain
(chains.py). They add in one fixed order: before a task adds to a tile of keys, it waits until the task before
it in the chain has passed these keys. A thread works on a chain of its own while new chains are left. Then it
joins a chain of another thread, and the threads of a chain follow each other like a wave. So every core is
busy even with a single head, and the sums do not depend on the number of threads.

Each tile of keys takes four passes: 1. scores s; 2. p and ds; 3. dv += p^T do, dk += ds^T q; 4. dq += ds k.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from flashbench.codegen.atomics import publish
from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import element_types
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import view
from flashbench.dtypes import Dtype
from flashbench.kernels.call.arrays import rows_at, rows_from, sequence_at, sums_in_place, thread_scratch
from flashbench.kernels.call.masks import HIDDEN, NO_MASK
from flashbench.kernels.call.structs import Array, Features, Gathers, Numbers, Sizes, Work
from flashbench.kernels.call.tiles import key_blocks, key_span, keys_at, tile_by_number, tiles_of
from flashbench.kernels.call.visibility import (
    add_visible_to_keys,
    add_visible_to_queries,
    all_finite_once,
    clear_rows,
    clear_sums,
    has_limits,
    hides_some,
    put_limits,
)
from flashbench.kernels.flash.chains import FINISHED, next_task, publish_end, wait_for_turn
from flashbench.kernels.flash.gather import (
    K_ROWS,
    TICKETS,
    V_ROWS,
    VALUES,
    check_rows,
    copy_rows,
    gather,
    keys_operand,
    operand_of,
    scatter,
)
from flashbench.kernels.flash.scratch import BACKWARD, whole
from flashbench.kernels.flash.tile_steps import put_alibi, put_rows, tile_gradients, tile_scores
from flashbench.kernels.maths.rows import all_finite
from flashbench.kernels.products import Matrix, Product
from flashbench.kernels.tile.scores import chain_softcap


class BackwardCall(NamedTuple):
    """The arguments of one call, shared by its threads.

    k and v: the arrays after `gather`. dk and dv: the arrays in which the sums grow; dk_home and dv_home: the
    outputs. work.tickets: TICKETS counters of `gather`, the counter of chains, then one counter per chain.
    """

    q: Array
    k: Array
    v: Array
    o: Array
    do: Array
    dq: Array
    dk: Numbers
    dv: Numbers
    dk_home: Array
    dv_home: Array
    lse: Numbers
    scratch: BACKWARD.cells  # type: ignore[name-defined]
    gathers: Gathers
    sizes: Sizes
    work: Work
    features: Features


class _Task(NamedTuple):
    """The place of a tile of queries in the chain of its key/value head."""

    kv: Any
    link: Any  # index in the chain
    is_last: Any  # the last of the chain
    done: Any  # progress counter: keys that this task has passed; the next task waits for it


class _Rows(NamedTuple):
    """The rows of one task. q, do, dq: of its tile, in place or in scratch. k, v, dk, dv: of its sequence."""

    q: Any
    do: Any
    q_tile: Any  # the operands of `product.add_to_keys`
    do_tile: Any
    dq: Any  # `Sums`
    k: Any
    v: Any
    dk: Any
    dv: Any
    k_is_finite: Any  # shared flag: 0 not checked yet, 1 finite, 2 not finite
    finite: Any  # q and do of the tile are finite, and no lse is NaN; checked only if pairs may be hidden


@functools.cache
def flash_backward(product: Product, dtype: Dtype) -> Any:
    """The compiled kernel. Arguments: see `flash_forward`; address: of a `BackwardCall`."""
    storage, number = element_types(dtype)

    def flash_backward(address, slot):
        state = product.begin()
        work_on_chains(product, view(BackwardCall, storage, number, address), slot)
        product.end(state)

    return compiled(flash_backward, variant=f"{product.name}.{dtype}")


@step
def work_on_chains(product, call, slot):
    """Take tiles of queries, chain by chain, until none is left."""
    gather(product, call)
    scratch = thread_scratch(call, slot)
    tickets = at(call.work.tickets, TICKETS)
    chain, link = next_task(call, tickets, -1, slot)
    while chain >= 0:
        b, kv = chain // call.sizes.num_kv_heads, chain % call.sizes.num_kv_heads
        sequence = sequence_at(call, b)
        tiles = tiles_of(call, sequence)
        queries = tile_by_number(call, b, kv * call.sizes.group + link // tiles, link % tiles)
        links = call.sizes.group * tiles
        first = sequence.tiles_before * call.sizes.num_heads + kv * links
        done = at(call.work.progress, first + link)
        task = _Task(kv, link, link + 1 == links, done)
        attend_backward(product, call, scratch, queries, task)
        chain, link = next_task(call, tickets, chain, slot)


@step
def attend_backward(product, call, scratch, queries, task):
    """Compute dq of a tile of queries, and add its share to dk and dv."""
    rows = begin(product, call, scratch, queries, task)
    tiles = 0
    past = 0  # this task adds nothing more to keys before this one
    before = at(task.done, -1)  # progress counter to wait for
    if task.link > 0 and queries.first_key > 0:  # let the next task pass the keys that this task skips
        before = wait_for_turn(before, queries.first_key)
        publish(task.done, queries.first_key)
    block, last_block = key_blocks(queries, call.features)
    while block < last_block:
        start, end = key_span(block, queries, call.features)
        while start < end:
            keys = keys_at(call, queries, block, start, end)
            start += keys.rows
            if keys.shown == HIDDEN:
                continue
            k = put_gradients(product, call, scratch, queries, keys, rows)
            if task.link > 0:
                before = wait_for_turn(before, keys.start + keys.rows)
            add_to_dk_and_dv(product, call, scratch, queries, keys, rows, task, past)
            past = keys.start + keys.rows
            publish(task.done, past)
            add_to_dq(product, call, scratch, queries, keys, rows, k, tiles > 0)
            tiles += 1
        block += 1
    if tiles == 0:
        clear_sums(rows.dq, queries.rows, call.sizes.head_dim, call.zero)
    finish(product, call, scratch, queries, task, rows, past, before)


@step
def begin(product, call, scratch, queries, task):
    """Pack q and do and set up per-query data in scratch. Returns the rows of the task."""
    sequence, h, kv = queries.sequence, queries.h, task.kv
    batch, query, key = sequence.batch, sequence.first_query + queries.start, sequence.first_key
    head_dim, head_dim_v = call.sizes.head_dim, call.sizes.head_dim_v
    q, do = rows_at(call.q, batch, h, query), rows_at(call.do, batch, h, query)
    o, lse = rows_at(call.o, batch, h, query), rows_at(call.lse, batch, h, query)
    dq = rows_at(call.dq, batch, h, query)
    in_scratch = product.sums(scratch.dq, queries.lanes, head_dim)
    tile_q = tile_copy(q, scratch.q, call.gathers.q, queries.rows, head_dim, call.zero + 1)
    tile_do = tile_copy(do, scratch.do, call.gathers.do, queries.rows, head_dim_v, call.zero + 1)
    check_rows(product, call, q, queries.rows, head_dim)
    check_rows(product, call, do, queries.rows, head_dim_v)
    # The packed tiles contain softmax_scale: scores come out in log2 units, and ds is ready for dq and dk. If
    # the product is exact they do not, and the scale multiplies dq and dk at the end.
    product.pack(tile_q, queries.rows, head_dim, scratch.qt, queries.lanes, call.features.q_factor)
    scale = call.zero + 1 if product.exact else call.features.scale
    put_rows(product, call, scratch, queries, tile_do, o, lse, scale)
    if call.features.alibi:
        put_alibi(scratch, queries, call.features)
    limited = has_limits(queries, call.features)
    if limited:
        put_limits(scratch, queries, call.features)
    finite = True
    if limited or call.features.mask != NO_MASK:
        finite = all_finite(q.at, q.row, queries.rows, head_dim)
        finite = finite and all_finite(do.at, do.row, queries.rows, head_dim_v)
        for r in range(queries.rows):  # a NaN in lse spreads to hidden pairs too: exp2(-inf - NaN) is NaN
            finite = finite and not math.isnan(at(scratch.lse2, r)[0])
    return _Rows(
        tile_q,
        tile_do,
        product.queries(tile_q, queries.rows, head_dim, scratch.q_tile),
        product.queries(tile_do, queries.rows, head_dim_v, scratch.do_tile),
        in_scratch if call.gathers.sums else sums_in_place(dq, call.zero),
        rows_at(call.k, batch, kv, key),
        rows_at(call.v, batch, kv, key),
        rows_at(call.dk, batch, kv, key),
        rows_at(call.dv, batch, kv, key),
        at(call.work.finite, queries.b * call.sizes.num_kv_heads + kv),
        finite,
    )


@step
def tile_copy(rows, room, wanted, count, columns, one):
    """The rows themselves if not `wanted`, else a contiguous copy in `room`."""
    if not wanted:
        return rows
    copy = Matrix(room, columns)
    copy_rows(rows, copy, count, columns, one)
    return copy


@step
def put_gradients(product, call, scratch, queries, keys, rows):
    """Passes 1 and 2: p and ds of one tile of keys, in scratch. Returns the tile's operand k.

    Forward: s = k @ qt, p = softmax(s), o = p @ v.
    """
    k = keys_operand(product, call, queries, keys, rows.k, call.sizes.head_dim, K_ROWS, scratch.k)
    v = keys_operand(product, call, queries, keys, rows.v, call.sizes.head_dim_v, V_ROWS, scratch.v)
    factor = tile_scores(product, call, scratch, scratch.p, queries, keys, k, scratch.cap_slopes)
    if weighs_at_once(product, call, keys):
        tiles, of_lanes = (scratch.p, scratch.ds), (scratch.lse2, scratch.delta)
        product.scores(scratch.ds, v, scratch.dot, queries.lanes, keys.rows, call.sizes.head_dim_v)
        of_p, of_ds = key_weights_rooms(product, scratch, queries, keys, True)
        rooms = of_p, of_ds, weights_room(product, scratch, queries, keys)
        product.gradient_weights(tiles, of_lanes, queries.lanes, keys.rows, factor, rooms)
    else:
        tile_gradients(product, call, scratch, queries, keys, v, factor)
        if call.features.cap != 0:
            chain_softcap(scratch.ds, scratch.cap_slopes, keys.rows * queries.lanes)
    return k


@step
def weighs_at_once(product, call, keys):
    """Whether p and ds of the tile are made as weights at once: no feature needs them in float32."""
    plain = not hides_some(keys) and call.features.dropout == 0 and call.features.cap == 0
    return plain and product.exact


@step
def key_weights_rooms(product, scratch, queries, keys, at_once):
    """Where `key_weights` of p and of ds are made. If not at once, those of ds replace those of p."""
    if at_once:
        size = keys.rows * whole(queries.lanes) * product.parts // 2
        return scratch.weights, at(scratch.weights, size)
    return (scratch.p, scratch.p) if product.parts == 1 else (scratch.weights, scratch.weights)


@step
def weights_room(product, scratch, queries, keys):
    """Where `weights` of ds are made. Those of three parts take more memory than ds does."""
    if product.parts < 3:
        return scratch.ds
    return at(scratch.weights, keys.rows * whole(queries.lanes) * product.parts)


@step
def add_to_dk_and_dv(product, call, scratch, queries, keys, rows, task, past):
    """Pass 3: add to dk and dv of the keys, in the order of the chain.

    Forward: o += p @ v, so dv += p.T @ do; s = q @ k.T, so dk += ds.T @ q. The first task of a chain writes
    instead of adding, so that nothing needs to clear dk and dv before.
    """
    head_dim, head_dim_v, lanes = call.sizes.head_dim, call.sizes.head_dim_v, queries.lanes
    dk, dv = rows_from(rows.dk, keys.start), rows_from(rows.dv, keys.start)
    if task.link == 0 and past < keys.start:  # keys that the first task skips: no product writes them
        clear_keys(call, rows, past, keys.start)
    if hides_some(keys) and not rows.finite:
        if task.link == 0:
            clear_rows(dv, keys.rows, head_dim_v, call.zero)
            clear_rows(dk, keys.rows, head_dim, call.zero)
        add_visible_to_keys(scratch.p, queries, keys, rows.do, dv, head_dim_v, call.features)
        add_visible_to_keys(scratch.ds, queries, keys, rows.q, dk, head_dim, call.features)
    else:
        add, count, made = task.link > 0, keys.rows, weighs_at_once(product, call, keys)
        p_room, ds_room = key_weights_rooms(product, scratch, queries, keys, made)
        unmade = 0 if made else count
        p = product.key_weights(scratch.p, lanes, unmade, p_room)
        product.add_to_keys(p, lanes, rows.do_tile, dv, count, head_dim_v, queries.rows, add)
        ds = product.key_weights(scratch.ds, lanes, unmade, ds_room)
        product.add_to_keys(ds, lanes, rows.q_tile, dk, count, head_dim, queries.rows, add)


@step
def clear_keys(call, rows, first, end):
    """Set dk and dv of keys first to end - 1 to zero."""
    clear_rows(rows_from(rows.dk, first), end - first, call.sizes.head_dim, call.zero)
    clear_rows(rows_from(rows.dv, first), end - first, call.sizes.head_dim_v, call.zero)


@step
def add_to_dq(product, call, scratch, queries, keys, rows, k_tile, begun):
    """Pass 4: add to dq of the queries. Forward: s = q @ k.T, so dq += ds @ k. k_tile: from put_gradients."""
    columns, k = call.sizes.head_dim, rows_from(rows.k, keys.start)
    if hides_some(keys) and not all_finite_once(rows.k_is_finite, rows.k, queries.sequence.seqlen_k, columns):
        if not begun:
            clear_sums(rows.dq, queries.rows, columns, call.zero)
        add_visible_to_queries(scratch.ds, queries, keys, k, rows.dq, columns, call.features)
    else:
        place, to_turn = operand_of(call, queries, keys, VALUES, scratch.turned)
        turned = product.turned(k_tile, to_turn, columns, place)
        unmade = 0 if weighs_at_once(product, call, keys) else keys.rows
        ds = product.weights(scratch.ds, queries.lanes, unmade, weights_room(product, scratch, queries, keys))
        product.add_to_queries(ds, queries.lanes, turned, rows.dq, queries.rows, columns, keys.rows, begun)


@step
def finish(product, call, scratch, queries, task, rows, past, before):
    """Copy dq from scratch, clear dk and dv of the last keys if no product wrote them, release the next task.

    The last task of a chain also copies gathered dk and dv to the outputs. before: see `wait_for_turn`.
    """
    sequence, columns = queries.sequence, call.sizes.head_dim
    scale = call.features.scale if product.exact else call.zero + 1
    if call.gathers.sums:
        dq = rows_at(call.dq, sequence.batch, queries.h, sequence.first_query + queries.start)
        for r in range(queries.rows):  # delta is no longer needed: its memory takes the factors
            at(scratch.delta, r)[0] = scale
        product.put(dq, rows.dq, queries.rows, columns, scratch.delta)
    if task.link == 0:
        clear_keys(call, rows, past, sequence.seqlen_k)
    elif task.is_last:
        before = wait_for_turn(before, FINISHED)
    if task.is_last:
        scatter(call.dk, call.dk_home, sequence, task.kv, columns, scale)
        scatter(call.dv, call.dv_home, sequence, task.kv, call.sizes.head_dim_v, call.zero + 1)
    publish_end(task.done, before, task.link)
