"""Arrays that features need next to q, k and v: mask, ALiBi slopes, sinks, block table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.block_mask import BlockMask
from flashbench.dtypes import accumulator_of
from flashbench.problem import AttentionProblem

Array = NDArray[np.floating]
# Shares of visible pairs and blocks in made masks. With 3 of 4 pairs no tile is wholly visible or hidden.
_VISIBLE_PAIRS = 0.75
_VISIBLE_BLOCKS = 0.25


class Extras(NamedTuple):
    """Each array is None if its feature is off. Floats are in the accumulator of the problem's dtype."""

    mask: NDArray[Any] | BlockMask | None = None  # bool or float, (batch, num_heads, seqlen_q, seqlen_k)
    alibi_slopes: Array | None = None  # (batch, num_heads)
    sinks: Array | None = None  # (num_heads,)
    block_table: NDArray[np.int64] | None = None  # (batch, pages of the longest sequence): page index in k, v


NO_EXTRAS = Extras()


def alibi_slopes(num_heads: int) -> NDArray[np.float64]:
    """ALiBi's slopes (num_heads,): 2^(-8 i / num_heads) for i = 1 to num_heads.

    If num_heads is no power of two: the slopes of the next lower power, then every second slope of the next
    higher power. Press et al. 2022, "Train Short, Test Long", and its code.

    >>> alibi_slopes(4)
    array([0.25      , 0.0625    , 0.015625  , 0.00390625])
    """
    lower = 2 ** (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 * np.arange(1, lower + 1) / lower)
    between = 2.0 ** (-4.0 * np.arange(1, 2 * (num_heads - lower), 2) / lower)
    return np.concatenate([slopes, between])


def make_extras(problem: AttentionProblem, seed: int = 0) -> Extras:
    """Arrays for the problem's features. One seed gives the same arrays on every machine.

    Slopes are `alibi_slopes`. Sinks and float masks are standard normal. A bool mask shows 3 of 4 pairs. A
    block mask shows 1 of 4 blocks, plus the first block of every row. Pages are in random order.
    """
    rng = np.random.default_rng((seed, 1))
    make = accumulator_of(problem.dtype).make
    slopes = sinks = table = None
    if problem.alibi:
        slopes = np.broadcast_to(make(alibi_slopes(problem.num_heads)), (problem.batch, problem.num_heads))
    if problem.sinks:
        sinks = make(rng.standard_normal(problem.num_heads))
    if problem.page_size is not None:
        table = _make_table(problem, rng)
    return Extras(_make_mask(problem, rng), slopes, sinks, table)


def _make_mask(problem: AttentionProblem, rng: np.random.Generator) -> NDArray[Any] | BlockMask | None:
    shape = (problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
    own = problem.mask_shape
    if problem.mask == "bool":
        return np.broadcast_to(rng.random(own) < _VISIBLE_PAIRS, shape)
    if problem.mask == "float":
        return np.broadcast_to(accumulator_of(problem.dtype).make(rng.standard_normal(own)), shape)
    if problem.mask == "block":
        return _make_block_mask(problem, rng)
    return None


def _make_block_mask(problem: AttentionProblem, rng: np.random.Generator) -> BlockMask:
    batch, num_heads, seqlen_q, seqlen_k = problem.mask_shape
    block_q, block_k = problem.mask_block_q, problem.mask_block_k
    rows, columns = -(-seqlen_q // block_q), -(-seqlen_k // block_k)
    blocks = rng.random((batch, num_heads, rows, columns)) < _VISIBLE_BLOCKS
    blocks[..., 0] = True

    def visible(b: Any, h: Any, q: Any, k: Any) -> Any:
        # Every second visible block is visible only in part.
        row, column = q // block_q, k // block_k
        return blocks[b, h, row, column] & (((row + column) % 2 == 0) | (k % block_k <= q % block_q))

    return BlockMask.from_predicate(
        visible, seqlen_q, seqlen_k, batch=batch, num_heads=num_heads, block=(block_q, block_k)
    )


def _make_table(problem: AttentionProblem, rng: np.random.Generator) -> NDArray[np.int64]:
    assert problem.page_size is not None
    lengths = (problem.seqlen_k,) * problem.batch if problem.key_lengths is None else problem.key_lengths
    pages = -(-np.array(lengths) // problem.page_size)
    table = np.zeros((problem.batch, pages.max()), np.int64)
    table[np.arange(table.shape[1]) < pages[:, np.newaxis]] = rng.permutation(pages.sum())
    return table
