"""A step of decoding: the shortest way to the kernel, and the steps that go the usual way."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.huggingface_layers import Layer, close, qkv
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, eager_mask, sliding_window_causal_mask_function

from flashbench.integrations.huggingface import attention as huggingface_attention
from flashbench.integrations.huggingface import reset_stats, stats
from flashbench.integrations.huggingface.lazy_masks import lazy_mask

forward = huggingface_attention.attention_forward


@pytest.mark.parametrize("window", [None, 1, 3, 40])
def test_a_step_of_decoding_goes_the_shortest_way(window: int | None, monkeypatch: Any) -> None:
    """One query at the last of 30 keys. Nothing is read of its mask but what it is made of."""
    q, k, v = qkv(1, 30)
    function = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    made = {
        "batch_size": 2, "q_length": 1, "kv_length": 30, "q_offset": 29, "mask_function": function,
        "dtype": torch.float64,
    }  # fmt: skip
    expected = sdpa_attention_forward(Layer(2), q, k, v, eager_mask(**made))[0]
    mask = lazy_mask(**made)
    monkeypatch.setattr(huggingface_attention, "attention", None)
    reset_stats()
    for _ in range(2):  # the second layer
        close(forward(Layer(2), q, k, v, mask)[0], expected)
    assert mask.written is None
    assert stats() == (2, 0, {})
    close(forward(Layer(2), q, k, v, None)[0], sdpa_attention_forward(Layer(2), q, k, v, None)[0])


@pytest.mark.parametrize("change", ["padding", "written", "gradients", "dropout", "sinks", "softcap"])
def test_other_steps_of_decoding_go_the_usual_way(change: str, monkeypatch: Any) -> None:
    q, k, v = qkv(1, 9)
    made = {"batch_size": 2, "q_length": 1, "kv_length": 9, "q_offset": 8, "dtype": torch.float64}
    if change == "padding":
        made["attention_mask"] = torch.tensor([[False] * 2 + [True] * 7, [True] * 9])
    mask, eager, layer, options = lazy_mask(**made), eager_mask(**made), Layer(2), {}
    if change == "written":
        mask.numpy()[:, :, :, 3] = eager[:, :, :, 3] = -1.0
    if change == "gradients":
        q.requires_grad_()
    if change == "dropout":
        layer.train()
        options = {"dropout": 0.5}
    if change == "sinks":
        options = {"s_aux": torch.zeros(4, dtype=torch.float64)}
    if change == "softcap":
        options = {"softcap": 1e9}
    usual = huggingface_attention.attention
    calls = []
    monkeypatch.setattr(
        huggingface_attention, "attention", lambda *x, **named: calls.append(1) or usual(*x, **named)
    )
    o = forward(layer, q, k, v, mask, **options)[0]
    assert calls == [1]
    if change not in ("dropout", "sinks"):
        close(o, sdpa_attention_forward(Layer(2), q, k, v, eager)[0])
