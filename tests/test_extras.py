"""Arrays next to q, k and v: ALiBi's published slopes, and arrays that fit the problem."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.feature_problems import problems
from hypothesis import given

from flashbench.block_mask import BlockMask
from flashbench.extras import NO_EXTRAS, alibi_slopes, make_extras
from flashbench.problem import AttentionProblem

FIELDS = {"mask": "mask", "alibi": "alibi_slopes", "sinks": "sinks", "block_table": "block_table"}


def test_slopes_are_those_of_the_paper() -> None:
    """Press et al. 2022, section 3: 8 heads have 1/2, 1/4, ... 1/256; 16 have means between."""
    eight = [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(8).tolist() == eight
    sixteen = alibi_slopes(16)
    assert sixteen[1::2].tolist() == pytest.approx(eight)
    assert sixteen[0] == pytest.approx(2**-0.5)
    assert sixteen[2::2] == pytest.approx(np.sqrt(sixteen[1:-1:2] * sixteen[3::2]))
    assert alibi_slopes(1).tolist() == [2.0**-8]


def slopes_of_their_code(num_heads: int) -> list[float]:
    """The slopes in the paper's published code, which uses recursion if num_heads is no power of two."""
    if num_heads & (num_heads - 1) == 0:
        ratio = 2.0 ** (-8.0 / num_heads)
        return [ratio * ratio**i for i in range(num_heads)]
    lower = 1 << (num_heads.bit_length() - 1)
    return slopes_of_their_code(lower) + slopes_of_their_code(2 * lower)[0::2][: num_heads - lower]


@pytest.mark.parametrize("num_heads", range(1, 70))
def test_slopes_of_other_numbers_of_heads_interleave(num_heads: int) -> None:
    assert alibi_slopes(num_heads).tolist() == pytest.approx(slopes_of_their_code(num_heads), rel=1e-12)


@given(problem=problems())
def test_extras_are_there_where_the_feature_is(problem: AttentionProblem) -> None:
    extras = make_extras(problem, 3)
    assert {name for name, field in FIELDS.items() if getattr(extras, field) is not None} == (
        problem.features & FIELDS.keys()
    )
    shape = (problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
    mask = extras.mask
    if isinstance(mask, BlockMask):
        assert mask.shape == problem.mask_shape
        assert (mask.block_q, mask.block_k) == (problem.mask_block_q, problem.mask_block_k)
        assert mask.dense()[..., 0].all()  # every query sees its first key
    elif mask is not None:
        assert mask.shape == shape
        assert mask.dtype == (np.bool_ if problem.mask == "bool" else problem.dtype)
        for stride, size, own in zip(mask.strides, shape, problem.mask_shape, strict=True):
            assert own == size or stride == 0
    if extras.alibi_slopes is not None:
        assert extras.alibi_slopes.shape == shape[:2]
        assert extras.alibi_slopes.dtype == problem.dtype
    if extras.sinks is not None:
        assert extras.sinks.shape == (problem.num_heads,)
        assert extras.sinks.dtype == problem.dtype
    if extras.block_table is not None:
        assert extras.block_table.dtype == np.int64
        pages = [-(-sequence.seqlen_k // problem.page_size) for sequence in problem.sequences()]
        used = [page for row, count in zip(extras.block_table, pages, strict=True) for page in row[:count]]
        assert sorted(used) == list(range(problem.k_shape[0]))


def flattened(extras: Any) -> list[np.ndarray]:
    """Every array of them, a block mask's too."""
    arrays = []
    for field in extras:
        if isinstance(field, BlockMask):
            arrays += [x for x in field if isinstance(x, np.ndarray)]
        elif field is not None:
            arrays.append(field)
    return arrays


EVERYTHING = AttentionProblem.of(
    300, batch=2, num_heads=2, mask="bool", mask_axes="bhqk", alibi=True, sinks=True, page_size=16
)


@pytest.mark.parametrize("kind", ["bool", "float", "block"])
def test_a_seed_is_a_choice_and_the_same_choice_every_time(kind: Any) -> None:
    problem = msgspec.structs.replace(EVERYTHING, mask=kind)
    first, again, other = (flattened(make_extras(problem, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    differing = sum(not np.array_equal(x, y) for x, y in zip(first, other, strict=True))
    assert differing >= 3  # all but the slopes and some arrays of a block mask


def test_masks_hide_what_they_say() -> None:
    shares = {
        kind: make_extras(msgspec.structs.replace(EVERYTHING, seqlen_q=2048, seqlen_k=2048, mask=kind)).mask
        for kind in ("bool", "block")
    }
    assert shares["bool"].mean() == pytest.approx(0.75, abs=0.001)
    block = shares["block"]
    seen = block.visible_blocks / block.total_blocks
    assert seen == pytest.approx(0.25 + 0.75 / 32, abs=0.03)  # a quarter, plus the first of 32 in every row
    assert len(block.partial) / block.visible_blocks == pytest.approx(0.5, abs=0.05)


def test_without_features_there_is_nothing() -> None:
    assert make_extras(AttentionProblem.of(8, causal=True, softcap=3.0, dropout=0.5)) == NO_EXTRAS
