"""Tiny random models of Hugging Face's transformers with inputs, to compare with their `eager` attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from torch.nn import functional

BATCH, LENGTH, VOCABULARY = 2, 19, 64
LEFT = torch.tensor([[0] * 7 + [1] * (LENGTH - 7), [1] * LENGTH])
RIGHT = LEFT.flip(1)


class Case(NamedTuple):
    """A model in PyTorch's default dtype, and the arguments of its forward."""

    name: str
    features: str
    make: Callable[[], torch.nn.Module]
    inputs: Callable[[], dict[str, Any]]
    attentions: int  # calls of attention in a forward
    logits: str  # the attribute of the output that is compared
    generates: bool = False

    def model(self) -> torch.nn.Module:
        """A model with large weights. With transformers' own weights, attention hardly changes the output."""
        torch.manual_seed(0)
        model = self.make().eval()
        with torch.no_grad():
            for weights in model.parameters():
                if weights.dim() > 1:
                    weights.normal_(std=weights.shape[-1] ** -0.5)
        return model


_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_DECODER = {
    **_TEXT,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def _tokens() -> dict[str, Any]:
    return {"input_ids": torch.randint(1, VOCABULARY, (BATCH, LENGTH))}


def _llama() -> torch.nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_DECODER))


def _mistral() -> torch.nn.Module:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**_DECODER, sliding_window=5))


def _gemma2() -> torch.nn.Module:
    config = transformers.Gemma2Config(
        **_DECODER, head_dim=8, sliding_window=5, attn_logit_softcapping=2.0, query_pre_attn_scalar=4
    )
    assert config.layer_types == ["sliding_attention", "full_attention"]
    return transformers.Gemma2ForCausalLM(config)


def _gpt_oss() -> torch.nn.Module:
    config = transformers.GptOssConfig(
        **_DECODER, head_dim=8, sliding_window=5, num_local_experts=2, num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, experts_implementation="eager",
    )  # fmt: skip
    assert config.layer_types == ["sliding_attention", "full_attention"]
    model = transformers.GptOssForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.normal_()
    return model


def _bert() -> torch.nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(**_TEXT, max_position_embeddings=64))


def _vit() -> torch.nn.Module:
    config = transformers.ViTConfig(
        **{name: _TEXT[name] for name in _TEXT if name != "vocab_size"},
        image_size=16,
        patch_size=4,
        num_labels=5,
    )
    return transformers.ViTForImageClassification(config)


def _patchtst() -> torch.nn.Module:
    config = transformers.PatchTSTConfig(
        num_input_channels=2,
        context_length=32,
        patch_length=4,
        patch_stride=4,
        prediction_length=4,
        d_model=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        ffn_dim=24,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return transformers.PatchTSTForPrediction(config)


def _timesfm() -> torch.nn.Module:
    config = transformers.TimesFmConfig(
        patch_length=4,
        context_length=64,
        horizon_length=8,
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=24,
        head_dim=8,
        num_attention_heads=4,
    )
    return transformers.TimesFmModelForPrediction(config)


def _informer() -> torch.nn.Module:
    config = transformers.InformerConfig(
        prediction_length=6,
        context_length=12,
        lags_sequence=[1, 2],
        num_time_features=1,
        attention_type="full",
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        distil=False,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    return transformers.InformerForPrediction(config)


def _series() -> dict[str, Any]:
    return {"past_values": torch.randn(BATCH, 32, 2), "future_values": torch.randn(BATCH, 4, 2)}


def _windows() -> dict[str, Any]:
    past = [torch.randn(40), torch.randn(64)]  # the first is padded on the left, by whole patches
    return {"past_values": past, "freq": [0, 0], "future_values": torch.randn(BATCH, 8)}


def _informer_inputs() -> dict[str, Any]:
    past, future = 14, 6
    return {
        "past_values": torch.randn(BATCH, past),
        "past_time_features": torch.randn(BATCH, past, 1),
        "past_observed_mask": torch.ones(BATCH, past),
        "future_values": torch.randn(BATCH, future),
        "future_time_features": torch.randn(BATCH, future, 1),
    }


CASES = [
    Case("Llama", "GQA, causal", _llama, _tokens, 2, "logits", generates=True),
    Case("Mistral", "GQA, window 5 of 19", _mistral, _tokens, 2, "logits", generates=True),
    Case("Gemma 2", "GQA, softcap, window", _gemma2, _tokens, 2, "logits", generates=True),
    Case("GPT-OSS", "GQA, sinks, window", _gpt_oss, _tokens, 2, "logits", generates=True),
    Case("BERT", "padding", _bert, lambda: {**_tokens(), "attention_mask": RIGHT}, 2, "logits"),
    Case("ViT", "", _vit, lambda: {"pixel_values": torch.randn(BATCH, 3, 16, 16)}, 2, "logits"),
    Case("PatchTST", "", _patchtst, _series, 2, "prediction_outputs"),
    Case("TimesFM", "causal, padding", _timesfm, _windows, 2, "full_predictions"),
    Case("Informer, full", "causal decoder, cross", _informer, _informer_inputs, 6, "params"),
]


class Computed(NamedTuple):
    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def float64_throughout() -> Iterator[None]:
    """Keep float64 in models' norms, rotations and softmax, which otherwise run in float32 for any dtype.

    A difference of 1e-15 is then not rounded away, and eager attention has no error of its own.
    """
    softmax, to, to_float = functional.softmax, Tensor.to, Tensor.float

    def own_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
        return softmax(x, dim=dim, dtype=x.dtype if x.dtype is torch.float64 else dtype, **rest)

    def own_to(x: Tensor, *args: Any, **named: Any) -> Tensor:
        return x if args == (torch.float32,) and x.dtype is torch.float64 else to(x, *args, **named)

    def own_float(x: Tensor) -> Tensor:
        return x if x.dtype is torch.float64 else to_float(x)

    functional.softmax, Tensor.to, Tensor.float = own_softmax, own_to, own_float
    try:
        yield
    finally:
        functional.softmax, Tensor.to, Tensor.float = softmax, to, to_float


def compute(model: torch.nn.Module, attention: str, case: Case, inputs: dict[str, Any]) -> Computed:
    """One forward and backward. The loss depends on every token's logits, and on no padding's logits."""
    model.set_attn_implementation(attention)
    model.zero_grad()
    torch.manual_seed(1)
    with float64_throughout():
        output = model(**inputs)
        logits = getattr(output, case.logits)
        logits = torch.stack(logits, -1) if isinstance(logits, tuple) else logits
        mask = inputs.get("attention_mask")
        if mask is not None:
            logits = logits * mask[..., None]
        loss = output.loss if getattr(output, "loss", None) is not None else 0.0
        loss = loss + (logits * torch.linspace(-1, 1, logits[0].numel()).view(logits[0].shape)).mean()
        loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return Computed(logits.detach(), loss.detach(), found)


def apart(a: Computed, b: Computed) -> float:
    """The largest difference of logits, and of all gradients, each divided by the largest number."""
    assert a.gradients.keys() == b.gradients.keys()
    logits = (a.logits - b.logits).abs().max() / a.logits.abs().max()
    names = list(a.gradients)
    largest = max(a.gradients[name].abs().max() for name in names)
    gradients = max((a.gradients[name] - b.gradients[name]).abs().max() for name in names)
    return float(max(logits, gradients / largest))
