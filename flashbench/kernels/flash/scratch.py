"""Scratch memory of one thread in each flash kernel: the parts, their names and their sizes.

A thread allocates nothing: the engine gives each thread one block of this layout (codegen/scratch.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flashbench.codegen.isa import ISA
from flashbench.codegen.scratch import Part, ScratchLayout
from flashbench.codegen.structs import Storage

MOST_PARTS = 64  # parts of the keys that decoding merges at once


class ScratchSizes(NamedTuple):
    """The sizes of a call that set the sizes of the parts."""

    lanes: int  # block_q rounded up to whole vectors
    block_q: int
    block_k: int
    head_dim: int
    head_dim_v: int
    storage_bytes: int
    number_bytes: int
    limited: bool = False  # causality or a window: the first or the end key differs between queries
    alibi: bool = False
    softcap: bool = False
    # 1: the rows lie so far apart that they evict each other, so the task works on a copy of its tile here.
    gathers_sums: int = 0  # o in the forward pass, dq in the backward pass
    gathers_q: int = 0
    gathers_do: int = 0


def padded_lanes(block_q: int, itemsize: int) -> int:
    """block_q rounded up to whole vectors."""
    vector = ISA.lanes(itemsize)
    return -(-block_q // vector) * vector


def _lanes(name: str, rows: Callable[[ScratchSizes], int] = lambda n: 1) -> Part:
    """A part with `rows` rows of one number per lane."""
    return Part(name, lambda n: rows(n) * n.lanes)


def _keys(name: str) -> Part:
    """A tile [key, query lane]."""
    return _lanes(name, lambda n: n.block_k)


# The first key of each query, and one past its last. Forward and backward need them only with causality or a
# window. Decoding and the mask's gradient always do: their tiles may begin before a query's first key.
_LIMITS = (_lanes("firsts"), _lanes("ends"))
_LIMITS_IF_ANY = (_lanes("firsts", lambda n: n.limited), _lanes("ends", lambda n: n.limited))
# The key index at which each query stands (its diagonal), and its slope.
_ALIBI = (_lanes("positions", lambda n: n.alibi), _lanes("slopes", lambda n: n.alibi))
_ROW_STATE = (_lanes("row_max"), _lanes("row_sum"), _lanes("rescale"))
STATE_ROWS = len(_ROW_STATE)  # numbers per lane that the forward pass keeps with any features

FORWARD = ScratchLayout(
    "ForwardScratch",
    _lanes("qt", lambda n: n.head_dim),
    _keys("s"),
    *_ROW_STATE,
    *_LIMITS_IF_ANY,
    *_ALIBI,
    Part("o", lambda n: n.gathers_sums * n.block_q * n.head_dim_v),
)

_GRADIENTS = (
    _lanes("qt", lambda n: n.head_dim),
    _lanes("dot", lambda n: n.head_dim_v),
    _keys("p"),
    _keys("ds"),
    _lanes("lse2"),
    _lanes("delta"),
    *_ALIBI,
)
BACKWARD = ScratchLayout(
    "BackwardScratch",
    *_GRADIENTS,
    *_LIMITS_IF_ANY,
    _lanes("cap_slopes", lambda n: n.softcap * n.block_k),
    Part("q", lambda n: n.gathers_q * n.block_q * n.head_dim, Storage),
    Part("do", lambda n: n.gathers_do * n.block_q * n.head_dim_v, Storage),
    Part("dq", lambda n: n.gathers_sums * n.block_q * n.head_dim),
)
MASK_GRADIENT = ScratchLayout("MaskGradientScratch", *_GRADIENTS, *_LIMITS, _keys("total"))

DECODE = ScratchLayout(
    "DecodeScratch",
    Part("q", lambda n: max(n.head_dim * n.lanes, MOST_PARTS)),  # the merge reuses it for the parts' weights
    _lanes("qt", lambda n: n.head_dim),
    _keys("s"),
    *_ROW_STATE,
    *_LIMITS,
    *_ALIBI,
)
