"""The visible keys of one query: window and lengths give a range, a mask is a pass over the row of scores.

`add_visible_...`: exact sums over visible pairs only. They replace a product if its other matrix contains NaN
or inf, because 0 * NaN would spread to rows that do not attend to it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from flashbench.codegen.pointers import at, number_at, pointer
from flashbench.codegen.steps import step
from flashbench.kernels.call.features import blocks_of_row, dense_entry
from flashbench.kernels.call.masks import BLOCK_MASK, BOOL_MASK, FLOAT_MASK
from flashbench.kernels.call.visibility import end_key, first_key
from flashbench.kernels.row.features import add_mask_row, clear_lowest_row, hide_row

_BYTE = np.uint8(0)  # the type of a bool mask's entries


class Row(NamedTuple):
    """A row of scores: query i of head h in a sequence. Or a column: key i."""

    sequence: Any
    b: Any  # index of the sequence
    h: Any
    i: Any


@step
def visible_range(row, features):
    """(first, end) of the keys that window and lengths leave visible to a query; first = end if none."""
    first = first_key(row.i, row.sequence, features)
    return first, max(first, end_key(row.i, row.sequence, features))


@step
def _block_start(features, place):
    """The first key of a block in the block mask's list."""
    return features.columns[place] * features.mask_block_k


@step
def _is_whole(features, place):
    return features.parts[place] < 0


@step
def _block_entry(features, place, i, key):
    """Pointer to the entry of a pair in a partly visible block. key: counted in the block."""
    part = features.parts[place]
    row = part * features.mask_block_q + i % features.mask_block_q
    return at(pointer(_BYTE, features.mask_at), row * features.mask_block_k + key)


@step
def _hide_blocks(x, row, features, first, end, value):
    places = blocks_of_row(row.b, row.h, row.i, features)
    done = first
    for place in range(places[0], places[1]):
        k_start = _block_start(features, place)
        left, right = max(first, k_start), min(end, k_start + features.mask_block_k)
        if right <= left:
            continue
        for j in range(done, left):
            at(x, j)[0] = value
        if not _is_whole(features, place):
            entries = _block_entry(features, place, row.i, left - k_start)
            hide_row(at(x, left), entries, 1, right - left, value)
        done = right
    for j in range(done, end):
        at(x, j)[0] = value


@step
def mask_scores(s, row, features, first, end):
    """Apply the mask, if any, to the scores s[first:end] of a row: add it, or write -inf where it hides."""
    kind = features.mask
    if kind == BOOL_MASK:
        entries = pointer(_BYTE, dense_entry(row.b, row.h, row.i, first, features))
        hide_row(at(s, first), entries, features.mask_key, end - first, -math.inf)
    elif kind == FLOAT_MASK:
        entries = pointer(features.zero, dense_entry(row.b, row.h, row.i, first, features))
        add_mask_row(at(s, first), entries, features.mask_key, end - first)
    elif kind == BLOCK_MASK:
        _hide_blocks(s, row, features, first, end, -math.inf)


@step
def clear_masked(x, row, features, first, end):
    """Write 0 in x[first:end] where the mask hides the pair, even over NaN."""
    kind = features.mask
    if kind == BOOL_MASK:
        entries = pointer(_BYTE, dense_entry(row.b, row.h, row.i, first, features))
        hide_row(at(x, first), entries, features.mask_key, end - first, 0.0)
    elif kind == FLOAT_MASK:
        entries = pointer(features.zero, dense_entry(row.b, row.h, row.i, first, features))
        clear_lowest_row(at(x, first), entries, features.mask_key, end - first)
    elif kind == BLOCK_MASK:
        _hide_blocks(x, row, features, first, end, 0.0)


@step
def mask_lets_see(row, j, features):
    """Whether the mask, if any, lets the row's query attend to key j. Slow: for pairs checked one by one."""
    kind = features.mask
    if kind == BOOL_MASK:
        return pointer(_BYTE, dense_entry(row.b, row.h, row.i, j, features))[0] != 0
    if kind == FLOAT_MASK:
        return pointer(features.zero, dense_entry(row.b, row.h, row.i, j, features))[0] != -math.inf
    if kind == BLOCK_MASK:
        key = j % features.mask_block_k
        places = blocks_of_row(row.b, row.h, row.i, features)
        for place in range(places[0], places[1]):
            if _block_start(features, place) == j - key:
                return _is_whole(features, place) or _block_entry(features, place, row.i, key)[0] != 0
        return False
    return True


@step
def add_visible_keys(p, x, sums, columns, row, features):
    """sums += sum of p[j] * x[j] over the keys j visible to the row's query: a row of o or dq."""
    first, end = visible_range(row, features)
    for j in range(first, end):
        if mask_lets_see(row, j, features):
            for column in range(columns):
                at(sums, column)[0] += at(p, j)[0] * number_at(x.at, j * x.row + column)


@step
def add_visible_queries(p, p_row, x, sums, columns, key, features):
    """sums += sum of p[i] * x[i] over the queries i that attend to key `key.i`: a row of dk or dv."""
    for i in range(key.sequence.seqlen_q):
        row = Row(key.sequence, key.b, key.h, i)
        first, end = visible_range(row, features)
        if first <= key.i < end and mask_lets_see(row, key.i, features):
            for column in range(columns):
                at(sums, column)[0] += at(p, i * p_row)[0] * number_at(x.at, i * x.row + column)
