"""Scratch memory of one thread in each flash kernel: the parts, their names and their sizes.

A thread allocates nothing: the engine gives each thread one block of this layout (codegen/scratch.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import at
from flashbench.codegen.scratch import Part, ScratchLayout
from flashbench.codegen.steps import step
from flashbench.codegen.structs import Storage
from flashbench.codegen.tiles import DEPTH

WHOLE = DEPTH  # keys and columns of 16-bit floats are padded to multiples of this
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
    copies: int = 0  # 1: the product reads copies of rows, as those of 16-bit floats do
    weight_parts: int = 0  # of an exact product: 16-bit numbers for each weight
    limited: bool = False  # causality or a window: the first or the end key differs between queries
    alibi: bool = False
    softcap: bool = False
    # 1: the rows lie so far apart that they evict each other, so the task works on a copy of its tile here.
    gathers_sums: int = 0  # o in the forward pass, dq in the backward pass
    gathers_q: int = 0
    gathers_do: int = 0


def padded(size: int, step: int) -> int:
    """size rounded up to a multiple of `step`."""
    return -(-size // step) * step


def padded_lanes(block_q: int, itemsize: int) -> int:
    """block_q rounded up to whole vectors."""
    return padded(block_q, ISA.lanes(itemsize))


def _padded(size: int, n: ScratchSizes) -> int:
    """Keys and columns of tiles of 16-bit floats are padded to whole tiles of any product."""
    return padded(size, WHOLE) if n.copies else size


def _operand(n: ScratchSizes, numbers: int) -> int:
    """float32 numbers that an operand of so many numbers takes: those of up to two parts take one each."""
    return numbers * max(2, n.weight_parts) // 2


def _copy(name: str, rows: Callable[[ScratchSizes], int], columns: Callable[[ScratchSizes], int]) -> Part:
    """A copy of a tile of rows for the product: large enough for float32."""
    return Part(name, lambda n: n.copies * _operand(n, _padded(rows(n), n) * _padded(columns(n), n)))


def _lanes(name: str, rows: Callable[[ScratchSizes], int] = lambda n: 1) -> Part:
    """A part with `rows` rows of one number per lane."""
    return Part(name, lambda n: rows(n) * n.lanes)


def _sums(n: ScratchSizes, columns: int) -> int:
    """Sums of a tile of queries; a product may keep them as [column, lane]."""
    return n.lanes * _padded(columns, n) if n.copies else n.block_q * columns


def _keys(name: str) -> Part:
    """A tile [key, query lane]."""
    return _lanes(name, lambda n: _padded(n.block_k, n))


# The first key of each query, and one past its last. Forward and backward need them only with causality or a
# window. Decoding and the mask's gradient always do: their tiles may begin before a query's first key.
_LIMITS = (_lanes("firsts"), _lanes("ends"))
_LIMITS_IF_ANY = (_lanes("firsts", lambda n: n.limited), _lanes("ends", lambda n: n.limited))
# The key index at which each query stands (its diagonal), and its slope.
_ALIBI = (_lanes("positions", lambda n: n.alibi), _lanes("slopes", lambda n: n.alibi))
_ROW_STATE = (_lanes("row_max"), _lanes("row_sum"), _lanes("rescale"))
STATE_ROWS = len(_ROW_STATE)  # numbers per lane that the forward pass keeps with any features

_QT = _lanes("qt", lambda n: _operand(n, _padded(n.head_dim, n)))
# A tile of k, then a tile of v: see `room_of_v`.
_KEYS_TILE = Part(
    "rows",
    lambda n: (
        n.copies * _operand(n, _padded(n.block_k, n) * (_padded(n.head_dim, n) + _padded(n.head_dim_v, n)))
    ),
)
_K_TILE = _copy("k", lambda n: n.block_k, lambda n: n.head_dim)
_V_TILE = _copy("v", lambda n: n.block_k, lambda n: n.head_dim_v)

FORWARD = ScratchLayout(
    "ForwardScratch",
    _QT,
    # A tile of scores, then the weights of an exact product: see `room_of_weights`.
    _lanes("s", lambda n: _padded(n.block_k, n) + n.weight_parts * _padded(n.block_k, n) // 2),
    *_ROW_STATE,
    *_LIMITS_IF_ANY,
    *_ALIBI,
    _KEYS_TILE,
    Part("o", lambda n: n.gathers_sums * _sums(n, n.head_dim_v)),
)

_GRADIENTS = (
    _QT,
    _lanes("dot", lambda n: _operand(n, _padded(n.head_dim_v, n))),
    _keys("p"),
    _keys("ds"),
    _lanes("lse2"),
    _lanes("delta"),
    *_ALIBI,
    _K_TILE,
    _V_TILE,
)
BACKWARD = ScratchLayout(
    "BackwardScratch",
    *_GRADIENTS,
    *_LIMITS_IF_ANY,
    _lanes("cap_slopes", lambda n: n.softcap * n.block_k),
    Part(
        "weights",
        # Rows of p, rows of ds, and in three parts the words of ds.
        lambda n: (
            (2 + (n.weight_parts > 2)) * n.weight_parts * _padded(n.block_k, n) * padded(n.lanes, WHOLE) // 2
        ),
    ),
    _copy("turned", lambda n: n.block_k, lambda n: n.head_dim),
    _copy("q_tile", lambda n: n.lanes, lambda n: n.head_dim),
    _copy("do_tile", lambda n: n.lanes, lambda n: n.head_dim_v),
    Part("q", lambda n: n.gathers_q * n.block_q * n.head_dim, Storage),
    Part("do", lambda n: n.gathers_do * n.block_q * n.head_dim_v, Storage),
    Part("dq", lambda n: n.gathers_sums * _sums(n, n.head_dim)),
)
MASK_GRADIENT = ScratchLayout("MaskGradientScratch", *_GRADIENTS, *_LIMITS, _keys("total"))

DECODE = ScratchLayout(
    "DecodeScratch",
    Part("q", lambda n: max(n.head_dim * n.lanes, MOST_PARTS)),  # the merge reuses it for the parts' weights
    _QT,
    _keys("s"),
    *_ROW_STATE,
    *_LIMITS,
    *_ALIBI,
    _KEYS_TILE,
    Part("o", lambda n: n.copies * n.head_dim_v),  # a row that is being merged
)


@step
def whole(size):
    """size rounded up to whole tiles."""
    return (size + (WHOLE - 1)) // WHOLE * WHOLE


@step
def room_of_weights(call, scratch, queries):
    """What follows the tile of scores in `s`."""
    return at(scratch.s, whole(call.sizes.block_k) * queries.lanes)


@step
def room_of_v(product, call, scratch):
    """What follows the tile of k in `rows`: the tile of v."""
    return at(
        scratch.rows, whole(call.sizes.block_k) * whole(call.sizes.head_dim) * max(2, product.parts) // 2
    )
