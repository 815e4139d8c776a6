"""Block masks: no block shape loses a pair, and memory is proportional to the visible blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flashbench.block_mask import BlockMask
from flashbench.errors import AttentionError

SIZES = st.integers(1, 7)
BLOCKS = st.one_of(SIZES, st.tuples(SIZES, SIZES))
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=4, max_side=9))


@given(mask=MASKS, block=BLOCKS)
def test_from_mask_loses_nothing(mask: np.ndarray, block: Any) -> None:
    made = BlockMask.from_mask(mask, block)
    assert made.shape == (1,) * (4 - mask.ndim) + mask.shape
    assert (made.block_q, made.block_k) == (block if isinstance(block, tuple) else (block, block))
    assert np.array_equal(made.dense(), mask.reshape(made.shape))


@given(mask=MASKS, block=BLOCKS)
def test_from_predicate_is_the_same(mask: np.ndarray, block: Any) -> None:
    expected = BlockMask.from_mask(mask, block)
    batch, num_heads, seqlen_q, seqlen_k = expected.shape
    whole = mask.reshape(expected.shape)
    made = BlockMask.from_predicate(
        lambda b, h, q, k: whole[b, h, q, k],
        seqlen_q,
        seqlen_k,
        batch=batch,
        num_heads=num_heads,
        block=block,
    )
    assert made[:3] == expected[:3]
    for array, other in zip(made[3:], expected[3:], strict=True):
        assert array.dtype == other.dtype
        assert np.array_equal(array, other)


@given(mask=MASKS, block=BLOCKS)
def test_blocks_are_those_of_which_something_is_visible(mask: np.ndarray, block: Any) -> None:
    made = BlockMask.from_mask(mask, block)
    padded = made.dense()
    for axis, size in ((2, made.block_q), (3, made.block_k)):
        widths = [(0, 0)] * 4
        widths[axis] = (0, -padded.shape[axis] % size)
        padded = np.pad(padded, widths)
    rows, columns = padded.shape[2] // made.block_q, padded.shape[3] // made.block_k
    cut = padded.reshape(*padded.shape[:2], rows, made.block_q, columns, made.block_k)
    seen = cut.any(axis=(3, 5))
    assert made.total_blocks == seen.size
    assert made.visible_blocks == seen.sum()
    assert np.array_equal(np.diff(made.row_starts, axis=2), seen.sum(axis=3))
    assert np.array_equal(made.columns, np.nonzero(seen)[3])  # ascending in each row of blocks
    in_part = made.parts >= 0
    assert made.parts[in_part].tolist() == list(range(len(made.partial)))
    assert not made.partial.all(axis=(1, 2)).any()
    for part, place in zip(made.partial, np.argwhere(seen)[in_part], strict=True):
        b, h, row, column = place
        assert np.array_equal(part, cut[b, h, row, :, column])


@given(mask=MASKS, block=BLOCKS, data=st.data())
def test_rows_are_those_of_the_whole(mask: np.ndarray, block: Any, data: st.DataObject) -> None:
    made = BlockMask.from_mask(mask, block)
    batch, num_heads, seqlen_q, seqlen_k = made.shape
    # A batch or num_heads of 1 is broadcast.
    shape = batch if batch > 1 else 3, num_heads if num_heads > 1 else 3, seqlen_q, seqlen_k
    whole = np.broadcast_to(made.dense(), shape)
    b, h = (data.draw(st.integers(0, size - 1)) for size in shape[:2])
    start, stop = sorted(data.draw(st.integers(0, seqlen_q)) for _ in range(2))
    assert np.array_equal(made.rows(b, h, slice(start, stop)), whole[b, h, start:stop])


@pytest.mark.parametrize("n", [1024, 4096])
def test_memory_is_proportional_to_the_visible_blocks(n: int) -> None:
    """A band of two blocks per row, one whole and one partial: the same bytes per query at any length."""
    block = 64
    made = BlockMask.from_predicate(
        lambda b, h, q, k: (k <= q) & (k >= q // block * block - block), n, n, block=block
    )
    assert made.visible_blocks == 2 * (n // block) - 1
    assert len(made.partial) == n // block
    per_block = 2 * 8 + 8  # column and part of each block, and one start per row
    assert made.nbytes <= len(made.partial) * block**2 + made.visible_blocks * per_block + 16


def test_a_predicate_is_asked_for_a_row_of_blocks_at_a_time() -> None:
    asked = []

    def predicate(b: int, h: int, q: np.ndarray, k: np.ndarray) -> np.ndarray:
        asked.append((b, h, q.shape, k.shape, q[0, 0]))
        return q >= k

    BlockMask.from_predicate(predicate, 5, 9, batch=2, block=(3, 4))
    assert asked == [(b, 0, (rows, 1), (1, 9), q) for b in (0, 1) for rows, q in ((3, 0), (2, 3))]


def test_a_predicate_may_look_at_one_side_alone() -> None:
    made = BlockMask.from_predicate(lambda b, h, q, k: k < 3, 4, 5, block=2)
    assert np.array_equal(made.dense()[0, 0], np.tile(np.arange(5) < 3, (4, 1)))


@pytest.mark.parametrize(
    ("mask", "block", "message"),
    [
        (np.ones((4, 4)), 2, "mask must be a bool array, True where a query may attend, not float64"),
        (np.ones((4, 4), int), 2, "mask must be a bool array"),
        (np.ones(4, bool), 2, r"mask must have 2 to 4 dimensions and not be empty, not shape \(4,\)"),
        (np.ones((1, 1, 1, 4, 4), bool), 2, "mask must have 2 to 4 dimensions"),
        (np.ones((0, 4), bool), 2, r"not be empty, not shape \(0, 4\)"),
        (np.ones((4, 4), bool), 0, "block must be a whole number from 1 up, or a pair of them, not 0"),
        (np.ones((4, 4), bool), (2, -1), r"block must be .* not \(2, -1\)"),
        (np.ones((4, 4), bool), 1.5, "block must be .* not 1.5"),
        (np.ones((4, 4), bool), (2, 2, 2), "block must be"),
        (np.ones((4, 4), bool), True, "block must be .* not True"),
    ],
)
def test_what_is_no_mask_is_refused(mask: Any, block: Any, message: str) -> None:
    with pytest.raises(AttentionError, match=message):
        BlockMask.from_mask(mask, block)


@pytest.mark.parametrize("name", ["batch", "num_heads", "seqlen_q", "seqlen_k"])
def test_a_predicate_needs_something_to_see(name: str) -> None:
    sizes = {"batch": 1, "num_heads": 1, "seqlen_q": 4, "seqlen_k": 4, name: 0}
    with pytest.raises(AttentionError, match=f"{name} must be at least 1, not 0"):
        BlockMask.from_predicate(lambda b, h, q, k: q >= k, **sizes)


def test_a_predicate_must_say_yes_or_no() -> None:
    with pytest.raises(AttentionError, match="the predicate must return bool, not int64"):
        BlockMask.from_predicate(lambda b, h, q, k: q * k, 4, 4)
