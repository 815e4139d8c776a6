"""The mask of one tile: the address of its entries, how much of the tile is visible, and how to apply it."""

from __future__ import annotations

import math

import numpy as np

from flashbench.codegen.pointers import at, pointer
from flashbench.codegen.steps import step
from flashbench.kernels.call.features import dense_entry
from flashbench.kernels.maths.exp2 import LOG2E
from flashbench.kernels.tile.masks import add_mask, bytes_shown, clear_minus_inf, floats_shown, hide_masked

NO_MASK, BOOL_MASK, FLOAT_MASK, BLOCK_MASK = range(4)
HIDDEN, PARTLY, ALL = range(3)  # how much of a tile is visible: nothing, some of it, all
_BYTE = np.uint8(0)  # the type of a bool mask's entries


@step
def mask_address(b, h, block, q_start, k_start, features):
    """The address of the tile's first mask entry; 0 if a block mask shows the whole block."""
    if features.mask == BLOCK_MASK:
        part = features.parts[block]
        if part < 0:
            return 0
        block_q, block_k = features.mask_block_q, features.mask_block_k
        return features.mask_at + (part * block_q + q_start % block_q) * block_k + k_start % block_k
    return dense_entry(b, h, q_start, k_start, features)


@step
def mask_on_tile(address, q_rows, k_rows, features):
    """HIDDEN, PARTLY or ALL: how much of the tile the mask leaves visible."""
    if features.mask == NO_MASK or address == 0:
        return ALL
    by_query, by_key = features.mask_row, features.mask_key
    rows = 1 if by_query == 0 else q_rows
    state = HIDDEN
    for row in range(rows):  # stop at the first row that decides it: reading a mask is slow
        if features.mask == FLOAT_MASK:
            shown = floats_shown(at(pointer(features.zero, address), row * by_query), k_rows, by_key)
        else:
            shown = bytes_shown(at(pointer(_BYTE, address), row * by_query), k_rows, by_key)
        if shown == PARTLY or (row > 0 and shown != state):
            return PARTLY
        state = shown
    return state


@step
def mask_shows(address, query, key, features):
    """Whether the mask lets the tile's query attend to the tile's key; both indices count in the tile."""
    if features.mask == NO_MASK or address == 0:
        return True
    place = query * features.mask_row + key * features.mask_key
    if features.mask == FLOAT_MASK:
        return pointer(features.zero, address)[place] != -math.inf
    return pointer(_BYTE, address)[place] != 0


@step
def apply_mask(s, k_rows, lanes, q_rows, mask, features):
    """Add a float mask to a tile of scores in log2 units; write -inf where a bool mask is False."""
    by_query, by_key = features.mask_row, features.mask_key
    if features.mask == FLOAT_MASK:
        add_mask(s, k_rows, lanes, q_rows, pointer(features.zero, mask), by_query, by_key, LOG2E)
    else:
        hide_masked(s, k_rows, lanes, q_rows, pointer(_BYTE, mask), by_query, by_key, -math.inf)


@step
def clear_masked(tile, k_rows, lanes, q_rows, mask, features):
    """Write 0 where the mask hides a pair."""
    by_query, by_key = features.mask_row, features.mask_key
    if features.mask == FLOAT_MASK:
        clear_minus_inf(tile, k_rows, lanes, q_rows, pointer(features.zero, mask), by_query, by_key)
    else:
        hide_masked(tile, k_rows, lanes, q_rows, pointer(_BYTE, mask), by_query, by_key, features.zero)
