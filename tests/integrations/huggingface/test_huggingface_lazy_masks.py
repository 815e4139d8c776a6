"""Lazy masks: code that reads them gets the numbers of transformers' eager masks, and we get a pattern."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_masks import mask_function
from helpers.huggingface_models import CASES, LEFT, default_dtype
from hypothesis import given
from hypothesis import strategies as st
from test_huggingface_patterns import FLOATS, let_through
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    eager_mask,
    or_masks,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
    sliding_window_overlay,
)

from flashbench.integrations.huggingface.lazy_masks import LazyMask, lazy_mask
from flashbench.integrations.huggingface.mask_functions import Limits, limits_of

NAME = "fb_numba"


def test_functions_that_are_read() -> None:
    assert limits_of(causal_mask_function) == Limits(None, 0)
    assert limits_of(bidirectional_mask_function) == Limits(None, None)
    assert limits_of(sliding_window_causal_mask_function(5)) == Limits(-4, 0)
    assert limits_of(sliding_window_bidirectional_mask_function(5)) == Limits(-5, 5)
    assert limits_of(and_masks(sliding_window_overlay(7), sliding_window_causal_mask_function(5))) == (-4, 0)


def test_functions_of_which_nothing_is_known() -> None:
    chunked = chunked_causal_mask_function(3, torch.zeros(2, dtype=torch.int64))
    own = or_masks(causal_mask_function, sliding_window_overlay(2))
    for function in (chunked, own, and_masks(causal_mask_function, own), lambda b, h, q, k: k <= q, max):
        assert limits_of(function) is None


@given(
    queries=st.integers(1, 9),
    keys=st.integers(1, 12),
    q_offset=st.integers(0, 5),
    kv_offset=st.integers(0, 5),
    window=st.integers(1, 12),
    kind=st.sampled_from(["causal", "window", "around", "all", "chunked"]),
    padding=st.lists(st.lists(st.booleans(), min_size=17, max_size=17), min_size=2, max_size=2),
    padded=st.integers(-1, 17),
    skip=st.booleans(),
    dtype=st.sampled_from(FLOATS),
)
def test_the_numbers_of_eager_masks(
    queries, keys, q_offset, kv_offset, window, kind, padding, padded, skip, dtype
) -> None:
    function = mask_function(kind, window)
    given_ = {
        "batch_size": 2, "q_length": queries, "kv_length": keys, "q_offset": q_offset, "kv_offset": kv_offset,
        "mask_function": function, "dtype": dtype,
        "allow_is_bidirectional_skip": skip and kind == "all",
        "attention_mask": None if padded < 0 else torch.tensor(padding)[:, :padded],
    }  # fmt: skip
    eager, ours = eager_mask(**given_), lazy_mask(**given_)
    if eager is None:
        assert ours is None
        return
    assert (ours.shape, ours.dtype) == (eager.shape, eager.dtype)
    if isinstance(ours, LazyMask):
        pattern = ours.pattern()
        assert ours.written is None
        if pattern is not None:
            assert torch.equal(let_through(pattern, ours, queries), eager == 0)
    assert torch.equal(ours + 0, eager)


def unwritten() -> LazyMask:
    mask = lazy_mask(2, 19, 19, attention_mask=LEFT.bool())
    assert isinstance(mask, LazyMask)
    return mask


def test_models_leave_them_unwritten(monkeypatch: Any) -> None:
    def written(self: LazyMask) -> Any:
        raise AssertionError("someone looked")

    monkeypatch.setattr(LazyMask, "whole", written)
    for case in CASES:
        if case.generates:
            model = case.model()
            model.set_attn_implementation(NAME)
            model(**case.inputs(), attention_mask=LEFT).logits.sum().backward()


@pytest.mark.parametrize("write", ["in place", "through a view"])
def test_what_is_written_to_them_counts(write: str) -> None:
    with default_dtype(torch.float32):
        case = CASES[0]
        model, inputs = case.model(), case.inputs()
    given_ = {"eager": eager_mask(2, 19, 19), NAME: lazy_mask(2, 19, 19)}
    assert isinstance(given_[NAME], LazyMask)
    logits = []
    for name, mask in given_.items():
        model.set_attn_implementation(name)
        before = model(**inputs, attention_mask=mask).logits
        if write == "in place":
            mask[:, :, 3:, 0] = torch.finfo(torch.float32).min
        else:
            part = mask[:, :, 3:]
            model(**inputs, attention_mask=mask)
            part[..., 0].fill_(torch.finfo(torch.float32).min)
        logits.append(model(**inputs, attention_mask=mask).logits)
        assert not torch.allclose(logits[-1], before)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


WAYS = ["numpy", "asarray", "dlpack", "data", "new data", "share_memory_", "copy", "apply_"]


@pytest.mark.parametrize("way", WAYS)
def test_numbers_are_shared_with_those_who_go_past_operators(way: str) -> None:
    """PyTorch has no memory for such a tensor: code that used its address would read or write anywhere."""
    mask, eager = unwritten(), eager_mask(2, 19, 19, attention_mask=LEFT.bool())
    other = eager.flip(1, 2)
    shared = {
        "numpy": lambda: torch.from_numpy(mask.numpy()),
        "asarray": lambda: torch.from_numpy(np.asarray(mask)),
        "dlpack": lambda: torch.from_dlpack(mask),
        "data": lambda: mask.data,
        "new data": lambda: setattr(mask, "data", eager.clone()) or mask.data,
        "share_memory_": lambda: mask.share_memory_(),
        "copy": lambda: copy.copy(mask),
        "apply_": lambda: mask.apply_(lambda x: x),
    }[way]()
    assert torch.equal(shared + 0, eager)
    shared.copy_(other)
    assert torch.equal(mask + 0, other)
    assert mask.pattern() is None
    assert mask.tolist() == other.tolist()
    assert torch.equal(pickle.loads(pickle.dumps(mask)), other)


def test_they_can_be_shown_and_copied() -> None:
    mask, eager = unwritten(), eager_mask(2, 19, 19, attention_mask=LEFT.bool())
    assert repr(mask).startswith("LazyMask(tensor(")
    for plain in (mask.clone(), copy.deepcopy(mask), mask[:], mask.to(torch.float64)):
        assert type(plain) is torch.Tensor
        assert torch.equal(plain, eager.to(plain.dtype))
    assert torch.equal(torch.cat([mask, mask]), torch.cat([eager, eager]))


def test_without_versions() -> None:
    """Tensors of inference_mode have no version that would show a change."""
    with default_dtype(torch.float64):
        model, inputs = CASES[1].model(), CASES[1].inputs()
    model.set_attn_implementation(NAME)
    with torch.no_grad():
        expected = model(**inputs, attention_mask=LEFT).logits
    with torch.inference_mode():
        assert torch.equal(model(**inputs, attention_mask=LEFT).logits, expected)
        whole = eager_mask(2, 19, 19, dtype=torch.float64)
        first = model(**inputs, attention_mask=whole).logits
        whole[..., 9:, 0] = torch.finfo(torch.float64).min
        assert not torch.allclose(model(**inputs, attention_mask=whole).logits, first)


def test_layers_that_are_compiled_alone() -> None:
    torch.compiler.reset()
    with default_dtype(torch.float64), torch.no_grad():
        case = CASES[1]
        model, inputs = case.model(), case.inputs()
        model.set_attn_implementation(NAME)
        whole = model(**inputs, attention_mask=LEFT, use_cache=False).logits
        for layer in model.model.layers:
            layer.compile(backend="aot_eager", fullgraph=True)
        compiled = model(**inputs, attention_mask=LEFT, use_cache=False).logits
    seen = LEFT[..., None]
    torch.testing.assert_close(compiled * seen, whole * seen, rtol=1e-6, atol=1e-6)
