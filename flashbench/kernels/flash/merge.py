"""Merge the results of decoding: each part of a head's keys has its own o, row_max and row_sum.

The thread that finishes a head's last part merges all its parts, in a fixed order. So the bits of the result
do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from flashbench.codegen.atomics import fetch_add
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import Number
from flashbench.kernels.call.arrays import rows_at, rows_from, sums_in_place
from flashbench.kernels.flash.scratch import MOST_PARTS
from flashbench.kernels.maths.exp2 import LN2
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products import Matrix, Sums


class Split(NamedTuple):
    """How the keys are split into parts. A group is the query heads that share one key/value head (GQA)."""

    chunk: int  # queries per head in one task
    rows: int  # queries in one task: chunk * heads of a group
    lanes: int  # rows rounded up to whole vectors
    part_keys: int  # keys in one part
    parts: Number  # for each task: o (rows, head_dim_v), row_max (rows), row_sum (rows)
    part_numbers: int  # numbers per task in `parts`
    storage_bytes: int  # of an element of k and v
    converts: int  # 1: o is stored in another type than its sums


class KeyPart(NamedTuple):
    """One task: a part of the keys of one key/value head, for a chunk of queries of its group."""

    queries: Any  # h: the first head of the group. first_key, end_key: the limits of the part
    kv: Any
    task: Any
    number: Any  # index of the part, 0 <= number < splits
    splits: Any  # number of parts
    o: Any  # this part's `Sums` in `Split.parts`


@step
def splits_of(seqlen_k, part_keys):
    """The number of parts of a sequence's keys. A sequence without keys has one part: it writes o = 0."""
    return max(1, (seqlen_k + part_keys - 1) // part_keys)


@step
def finish_part(product, call, scratch, part):
    """Store row_max and row_sum after the part's o. The last part to finish merges all parts of the head."""
    rows, columns = call.split.rows, call.sizes.head_dim_v
    tails = at(part.o.at, rows * columns)
    for r in range(rows):
        at(tails, r)[0] = at(scratch.row_max, r)[0]
        at(tails, rows + r)[0] = at(scratch.row_sum, r)[0]
    first = part.task - part.number
    if fetch_add(at(call.work.tickets, first), 1) == part.splits - 1:
        merge_parts(product, call, scratch, part, at(call.split.parts, first * call.split.part_numbers))


@step
def merge_parts(product, call, scratch, part, parts):
    """Write o and lse of the queries from all parts of their keys."""
    queries, chunk = part.queries, call.split.chunk
    rows, columns = call.split.rows, call.sizes.head_dim_v
    sequence = queries.sequence
    for r in range(rows):
        g, i = r // chunk, r % chunk
        if i < queries.rows:
            query, h = sequence.first_query + queries.start + i, queries.h + g
            o, lse = rows_at(call.o, sequence.batch, h, query), rows_at(call.lse, sequence.batch, h, query)
            values = Matrix(at(parts, r * columns), call.split.part_numbers)
            tails = at(parts, rows * columns + r)
            merge_row(product, call, scratch, part.splits, values, tails, o, lse)


@step
def merge_row(product, call, scratch, splits, values, tails, o, lse):
    """Write o and lse of one row: o = sum of weight * part, with weight = 2**(part_max - max) / total.

    values: the row's unnormalised o, one row per part. tails: the row_max of the first part; its row_sum lies
    `rows` numbers further. The weights overwrite scratch.q, which is no longer needed. It has room for
    MOST_PARTS weights, so more parts than that are merged in several turns.
    """
    stride, rows, zero, weights = call.split.part_numbers, call.split.rows, call.zero, scratch.q
    columns = call.sizes.head_dim_v
    sums = Sums(scratch.o, columns, 1) if call.split.converts else sums_in_place(o, zero)
    most = zero - math.inf
    for part in range(splits):
        most = max(most, at(tails, part * stride)[0])
    total = zero + 0.0
    for part in range(splits):
        part_max, part_sum = at(tails, part * stride)[0], at(tails, part * stride + rows)[0]
        if part_max != -math.inf or part_sum != 0:  # else the row attends to no key of the part
            total += 2.0 ** (part_max - most) * part_sum
    inverse = 1 / total if total != 0 else zero + 0.0
    for first in range(0, splits, MOST_PARTS):
        count = min(MOST_PARTS, splits - first)
        for i in range(count):
            place = (first + i) * stride
            unseen = at(tails, place)[0] == -math.inf and at(tails, place + rows)[0] == 0
            at(weights, i)[0] = zero if unseen else 2.0 ** (at(tails, place)[0] - most) * inverse
        part_rows = rows_from(values, first)
        product.add_to_queries(weights, 1, part_rows, sums, 1, columns, count, first > 0)
    if call.split.converts:
        put_multiple(o.at, sums.at, columns, zero + 1)
    at(lse.at, 0)[0] = most * LN2 + math.log(total)
