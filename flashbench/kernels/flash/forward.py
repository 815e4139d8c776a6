"""Tiled attention with an online softmax: the forward pass of FlashAttention (Dao et al. 2022; Dao 2023).

Threads take tasks from a shared counter. A task is one tile of queries of one head: `attend` packs the
queries, loops over tiles of keys, and writes o and lse. Each tile of keys takes three passes (add_keys.py):

    1. s = log2(e) * (scale q k^T with softcap, ALiBi and masks)
    2. row_max and row_sum are updated, o is rescaled if row_max grew, and s becomes p = exp2(s - row_max)
    3. o += p v

After the last tile, `finish` divides o by row_sum and computes lse from row_max and row_sum.

Names used in all kernels of this folder:

    call      the arrays, sizes and features of the call: a struct (`ForwardCall`)
    scratch   this thread's own memory (scratch.py): the packed queries qt, a tile of scores s, row_max, ...
    queries   the tile of queries: its sequence b, head h, first query `start`, number of queries `rows`
    keys      the tile of keys: first key `start`, number of keys `rows`, how much of the tile is visible
    rows      addresses of the rows of q, k, v, o and lse that the task reads and writes
    lanes     the number of queries in the tile, rounded up to whole vectors
    product   the matrix products, by one kind of instruction (products/)

`at(p, i)[0]` is element i from pointer p on. `call.zero` is a zero of the accumulator type. A `@step` is a
function that only compiled code calls.

The tile of scores is transposed: s[key, query lane]. So a product of float32 reads rows of K and V as they
are, and only q is packed; what other products pack, they say (products/). Sums grow in o itself, so that
scratch needs no copy of it. But rows at long strides fall into the same cache sets and evict each other. Then
k and v are gathered before the first tile (gather.py), and sums grow in scratch and are copied to o at the
end. Sums of a dtype of 16 bits always grow in scratch: they are float32.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import element_types
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import view
from flashbench.dtypes import Dtype
from flashbench.kernels.call.arrays import rows_at, sequence_at, sums_in_place, thread_scratch
from flashbench.kernels.call.structs import Array, Features, ForwardGathers, Numbers, Sizes, Work
from flashbench.kernels.call.tiles import first_cursor, next_keys, sequence_of, tile_by_number, tiles_of
from flashbench.kernels.call.visibility import (
    NO_LIMIT,
    clear_sums,
    has_limits,
    put_limits,
)
from flashbench.kernels.flash.add_keys import add_keys, add_weighted_keys
from flashbench.kernels.flash.gather import TICKETS, check_rows, gather
from flashbench.kernels.flash.scratch import FORWARD
from flashbench.kernels.flash.tile_steps import put_alibi, start_of_row
from flashbench.kernels.maths.exp2 import LN2
from flashbench.kernels.products import Product


class ForwardCall(NamedTuple):
    """The arguments of one call, shared by its threads.

    k and v: the arrays after `gather`. work.tickets: TICKETS counters of `gather`, then the counter of tasks.
    """

    q: Array
    k: Array
    v: Array
    o: Array
    lse: Numbers
    scratch: FORWARD.cells  # type: ignore[name-defined]
    gathers: ForwardGathers
    sizes: Sizes
    work: Work
    features: Features


class _Rows(NamedTuple):
    """The rows of one task. q, o, lse, sums: of its tile of queries. k, v: all keys of its sequence."""

    q: Any
    o: Any
    lse: Any
    sums: Any  # the unnormalised o: o itself, or scratch
    k: Any
    v: Any
    v_is_finite: Any  # shared flag: 0 not checked yet, 1 finite, 2 not finite


@functools.cache
def flash_forward(product: Product, dtype: Dtype) -> Any:
    """The compiled kernel: kernel(address, slot). address: of the `ForwardCall`. slot: the thread's index."""
    storage, number = element_types(dtype)
    add = add_weighted_keys if product.exact else add_keys

    def flash_forward(address, slot):
        state = product.begin()
        work_on_tiles(product, add, view(ForwardCall, storage, number, address), slot)
        product.end(state)

    return compiled(flash_forward, variant=f"{product.name}.{dtype}")


@step
def work_on_tiles(product, add, call, slot):
    """Take tiles of queries from the shared counter until none is left. add: the step for a tile of keys."""
    gather(product, call)
    scratch = thread_scratch(call, slot)
    ticket = at(call.work.tickets, TICKETS)
    while True:
        task = take_ticket(ticket)
        if task >= call.work.tasks:
            return
        queries = tile_of_task(call, task)
        if queries.rows > 0:
            attend(product, add, call, scratch, queries)


@step
def tile_of_task(call, task):
    """The tile of queries of a task. Tasks are numbered by sequence, then round, then head, then tile.

    With causality a head's first tiles take longest. If there are more threads than tiles of a head, the last
    head's long tiles would keep few threads busy at the end. Then the first round has half of the tiles of
    each head, the next round half of what is left, and so on. Otherwise one round has all tiles of each head:
    a thread reads the same k and v again.
    """
    heads = call.sizes.num_heads
    b = sequence_of(call, task, heads)
    sequence = sequence_at(call, b)
    task -= sequence.tiles_before * heads
    first, left = 0, tiles_of(call, sequence)
    in_rounds = call.features.right != NO_LIMIT and left < call.work.threads
    count = (left + 1) // 2 if in_rounds else left
    while task >= count * heads:
        task -= count * heads
        first += count
        left -= count
        count = (left + 1) // 2
    return tile_by_number(call, b, task // count, first + task % count)


@step
def attend(product, add, call, scratch, queries):
    """Compute o and lse of a tile of queries over all its visible keys."""
    rows = rows_of(product, call, scratch, queries)
    begin(product, call, scratch, queries, rows.q)
    tiles = 0
    keys, cursor = next_keys(call, queries, first_cursor(queries, call.features))
    while keys.rows > 0:
        add(product, call, scratch, queries, keys, rows, tiles > 0)
        tiles += 1
        keys, cursor = next_keys(call, queries, cursor)
    if tiles == 0:
        clear_sums(rows.sums, queries.rows, call.sizes.head_dim_v, call.zero)
    finish(product, call, scratch, queries, rows)


@step
def rows_of(product, call, scratch, queries):
    """The rows of q, o and lse for the tile, and of k and v for its sequence."""
    sequence, h = queries.sequence, queries.h
    kv, query = h // call.sizes.group, sequence.first_query + queries.start
    o = rows_at(call.o, sequence.batch, h, query)
    in_scratch = product.sums(scratch.o, queries.lanes, call.sizes.head_dim_v)
    return _Rows(
        rows_at(call.q, sequence.batch, h, query),
        o,
        rows_at(call.lse, sequence.batch, h, query),
        in_scratch if call.gathers.sums else sums_in_place(o, call.zero),
        rows_at(call.k, sequence.batch, kv, sequence.first_key),
        rows_at(call.v, sequence.batch, kv, sequence.first_key),
        at(call.work.finite, queries.b * call.sizes.num_kv_heads + kv),
    )


@step
def begin(product, call, scratch, queries, q):
    """Pack q and set the initial row_max, row_sum and feature data of each query lane."""
    features = call.features
    check_rows(product, call, q, queries.rows, call.sizes.head_dim)
    product.pack(q, queries.rows, call.sizes.head_dim, scratch.qt, queries.lanes, features.q_factor)
    row_max, row_sum = start_of_row(features, queries.h)
    for lane in range(queries.lanes):
        at(scratch.row_max, lane)[0] = row_max
        at(scratch.row_sum, lane)[0] = row_sum
    if features.alibi:
        put_alibi(scratch, queries, features)
    if has_limits(queries, features):
        put_limits(scratch, queries, features)


@step
def finish(product, call, scratch, queries, rows):
    """Divide o by row_sum and store lse. A row with no visible key has sum 0: o = 0, lse = -inf."""
    columns, sums = call.sizes.head_dim_v, rows.sums
    for r in range(queries.rows):
        total = at(scratch.row_sum, r)[0]
        at(scratch.rescale, r)[0] = call.features.keep_factor / total if total != 0 else call.zero
        at(rows.lse.at, r * rows.lse.row)[0] = at(scratch.row_max, r)[0] * LN2 + math.log(total)
    if call.gathers.sums:
        product.put(rows.o, sums, queries.rows, columns, scratch.rescale)
    else:
        product.scale(sums, queries.rows, columns, scratch.rescale)
