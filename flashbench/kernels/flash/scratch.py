"""The scratch of one thread of each flash kernel: what it keeps, under which name, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flashbench.codegen.isa import ISA
from flashbench.codegen.scratch import Part, ScratchLayout
from flashbench.codegen.structs import Storage

MOST_PARTS = 64  # of decoding, merged at once


class ScratchSizes(NamedTuple):
    """What the sizes of parts depend on."""

    lanes: int  # of a tile, whole vectors
    block_q: int
    block_k: int
    head_dim: int
    head_dim_v: int
    storage_bytes: int
    number_bytes: int
    limited: bool = False  # causality or a window gives queries a first or an end key of their own
    alibi: bool = False
    softcap: bool = False
    # Whether rows of these lie so far apart that a tile of them is better kept here while it is at work.
    gathers_sums: int = 0  # of o in the forward pass, of dq in the backward pass
    gathers_q: int = 0
    gathers_do: int = 0


def padded_lanes(block_q: int, itemsize: int) -> int:
    """block_q rounded up to whole vectors."""
    vector = ISA.lanes(itemsize)
    return -(-block_q // vector) * vector


def _lanes(name: str, rows: Callable[[ScratchSizes], int] = lambda n: 1) -> Part:
    """A part of so many rows, one number a lane each."""
    return Part(name, lambda n: rows(n) * n.lanes)


def _keys(name: str) -> Part:
    """A tile [key, query lane]."""
    return _lanes(name, lambda n: n.block_k)


# The first and the end key of each query: where a query has its own, or where tiles begin before the first.
_LIMITS = (_lanes("firsts"), _lanes("ends"))
_LIMITS_IF_ANY = (_lanes("firsts", lambda n: n.limited), _lanes("ends", lambda n: n.limited))
# Where each query stands among the keys, and its slope.
_ALIBI = (_lanes("positions", lambda n: n.alibi), _lanes("slopes", lambda n: n.alibi))
_ROW_STATE = (_lanes("row_max"), _lanes("row_sum"), _lanes("rescale"))
STATE_ROWS = len(_ROW_STATE)  # numbers that the forward pass keeps for each lane, whatever the features

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
    Part("q", lambda n: max(n.head_dim * n.lanes, MOST_PARTS)),  # later the weights of a head's parts
    _lanes("qt", lambda n: n.head_dim),
    _keys("s"),
    *_ROW_STATE,
    *_LIMITS,
    *_ALIBI,
)
