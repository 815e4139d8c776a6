"""Masks are recognised exactly: pattern and mask show the same pairs, entry by entry."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.huggingface_masks import mask_function
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import (
    eager_mask,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from flashbench.integrations.huggingface.patterns import Pattern, recognise

LOWEST = torch.finfo(torch.float32).min
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def let_through(pattern: Pattern, mask: torch.Tensor, queries: int) -> torch.Tensor:
    """The pairs that a pattern shows, from the definitions in `flashbench.attention`'s docstring."""
    keys = pattern.keys
    own = torch.arange(queries)[:, None] + keys - queries
    key = torch.arange(keys)
    left, right = pattern.window
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if pattern.causal:
        seen &= key <= own
    if left is not None:
        seen &= key >= own - left
    if right is not None:
        seen &= key <= own + right
    if pattern.mask is not None:
        assert pattern.mask.dtype is torch.bool
        seen = seen & pattern.mask
    return torch.nn.functional.pad(seen.expand(*mask.shape[:2], -1, -1), (0, mask.shape[3] - keys))


@given(
    queries=st.integers(1, 9),
    keys=st.integers(1, 12),
    q_offset=st.integers(0, 5),
    window=st.integers(1, 12),
    kind=st.sampled_from(["causal", "window", "around", "all"]),
    padding=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=2, max_size=2),
    padded=st.booleans(),
    added=st.none() | st.sampled_from(FLOATS),
)
def test_masks_of_transformers(queries, keys, q_offset, window, kind, padding, padded, added) -> None:
    function = mask_function(kind, window)
    given_ = {
        "batch_size": 2, "q_length": queries, "kv_length": keys, "q_offset": q_offset,
        "mask_function": function, "attention_mask": torch.tensor(padding)[:, :keys] if padded else None,
    }  # fmt: skip
    true = sdpa_mask(**given_, allow_is_causal_skip=False)
    mask = eager_mask(**given_, dtype=added) if added else true
    pattern = recognise(mask, queries)
    assert torch.equal(let_through(pattern, mask, queries), true)
    if not padded and kind in ("causal", "all") and true.any():
        assert pattern.mask is None


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from(FLOATS), st.data())
def test_any_mask(queries, keys, dtype, data) -> None:
    rows = st.lists(st.lists(st.booleans(), min_size=keys, max_size=keys), min_size=queries, max_size=queries)
    true = torch.tensor(data.draw(st.lists(rows, min_size=2, max_size=2)))[:, None]
    assert torch.equal(let_through(recognise(true, queries), true, queries), true)
    hides = data.draw(st.sampled_from([torch.finfo(dtype).min, -float("inf")]))
    added = torch.zeros(true.shape, dtype=dtype).masked_fill(~true, hides)
    assert torch.equal(let_through(recognise(added, queries), added, queries), true)


def test_one_entry_makes_the_difference() -> None:
    mask = torch.ones(40, 40, dtype=torch.bool).tril()[None, None]
    assert recognise(mask, 40) == Pattern(40, causal=True)
    for i, j in ((20, 3), (38, 0), (3, 20)):
        other = mask.clone()
        other[0, 0, i, j] ^= True
        assert recognise(other, 40) == Pattern(40, mask=other)


@given(st.integers(1, 5), st.integers(1, 6), st.booleans(), st.data())
def test_how_a_mask_lies_in_memory_makes_no_difference(queries, keys, added, data) -> None:
    bits = st.lists(st.booleans(), min_size=4 * queries * keys, max_size=4 * queries * keys)
    true = torch.tensor(data.draw(bits)).view(2, 2, queries, keys)
    if data.draw(st.booleans()):
        true = true & true[:, :, :1] & torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    mask = torch.where(true, 0.0, LOWEST) if added else true
    room = mask.new_zeros(2, 3, queries + 2, 2 * keys + 3)
    slices = {
        "rows with room between them": room[:, 1:, 1:-1, 2 : keys + 2],
        "every other key": room[:, 1:, 1:-1, 1 : 2 * keys + 1 : 2],
        "keys first": mask.new_zeros(keys, queries, 2, 2).permute(3, 2, 1, 0),
    }
    expected = recognise(mask, queries)
    for lies, view in slices.items():
        found = recognise(view.copy_(mask), queries)
        assert found[:-1] == expected[:-1], lies
        assert torch.equal(let_through(found, view, queries), true), lies
    shared = mask[:1, :1].expand(2, 2, -1, -1)
    assert torch.equal(
        let_through(recognise(shared, queries), shared, queries), true[:1, :1].expand(2, 2, -1, -1)
    )


def test_a_window_of_a_causal_mask() -> None:
    mask = sdpa_mask(
        1, 20, 20, mask_function=sliding_window_causal_mask_function(5), allow_is_causal_skip=False
    )
    assert recognise(mask, 20) == Pattern(20, causal=True, window=(4, None))


def test_room_for_later_keys_is_not_read() -> None:
    mask = sdpa_mask(1, 3, 64, q_offset=7, allow_is_causal_skip=False)
    assert recognise(mask, 3) == Pattern(10, causal=True)
    assert recognise(mask[:, :, -1:], 1) == Pattern(10)


def test_batches_of_the_same_mask_keep_one() -> None:
    padding = torch.tensor([[0, 1, 1, 1, 1]]).bool().expand(3, -1)
    pattern = recognise(eager_mask(3, 5, 5, attention_mask=padding), 5)
    assert pattern.causal
    assert pattern.mask.shape == (1, 1, 1, 5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_that_are_added_stay_numbers(dtype) -> None:
    least, lowest = -3e4 if dtype is torch.float16 else -1e9, torch.finfo(dtype).min
    mask = torch.tensor([[0.5, lowest], [least, 0.0]], dtype=dtype)[None, None]
    hidden = torch.tensor([[0.5, -float("inf")], [least, 0.0]], dtype=dtype)
    assert torch.equal(recognise(mask, 2).mask[0, 0], hidden)
    for whole in (mask.clamp(min=least), mask.masked_fill(mask == lowest, -float("inf"))):
        assert recognise(whole, 2).mask is whole


@pytest.mark.parametrize("dtype", FLOATS)
def test_negative_zeros_add_nothing(dtype) -> None:
    mask = torch.full((1, 1, 4, 4), -0.0, dtype=dtype)
    mask = mask.masked_fill(torch.ones(4, 4).triu(1).bool(), torch.finfo(dtype).min)
    assert recognise(mask, 4) == Pattern(4, causal=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_hides_nothing(dtype) -> None:
    mask = torch.zeros(1, 1, 4, 4, dtype=dtype)
    mask = mask.masked_fill(torch.ones(4, 4).triu(1).bool(), torch.finfo(dtype).min)
    mask[..., 2, 1] = float("nan")
    assert recognise(mask, 4).mask.isnan().nonzero().tolist() == [[0, 0, 2, 1]]
