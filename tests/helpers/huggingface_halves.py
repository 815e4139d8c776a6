"""Models of Hugging Face's transformers in half precision, and the same models in float64."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.huggingface_models import Case, Computed, compute, default_dtype, float64_throughout


class Half(NamedTuple):
    """A model as `from_pretrained(..., dtype=dtype)` makes it, and inputs in its dtype."""

    model: torch.nn.Module
    inputs: dict[str, Any]

    def exactly(self) -> Half:
        """The same weights and inputs in float64."""
        return Half(copy.deepcopy(self.model).double(), to_dtype(self.inputs, torch.float64))


def half_model(case: Case, dtype: torch.dtype) -> Half:
    with default_dtype(torch.float32):
        return Half(case.model().to(dtype), to_dtype(case.inputs(), dtype))


def to_dtype(x: Any, dtype: torch.dtype) -> Any:
    """x with all tensors of floats within it in `dtype`."""
    if isinstance(x, dict):
        return {name: to_dtype(value, dtype) for name, value in x.items()}
    if isinstance(x, list):
        return [to_dtype(value, dtype) for value in x]
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


class Errors(NamedTuple):
    """The largest errors of logits and of gradients."""

    logits: float
    gradients: float


def errors_of(half: Half, exact: Computed, attention: str, case: Case) -> Errors:
    """Errors of a forward and backward with this attention. exact: of `half.exactly()`."""
    found = compute(half.model, attention, case, half.inputs)
    assert found.gradients.keys() == exact.gradients.keys()
    assert all(x.dtype == half.model.dtype for x in found.gradients.values())
    return Errors(
        _apart(found.logits, exact.logits),
        max(_apart(x, exact.gradients[name]) for name, x in found.gradients.items()),
    )


class Decoded(NamedTuple):
    """Greedy decoding: new tokens (batch, new), and logits (batch, new, vocabulary) before each of them."""

    tokens: Tensor
    logits: Tensor
    exact: Tensor  # those of the float64 model for the same text


def decode(half: Half, exact: Half, attention: str, cache: str, seen: Tensor, new: int) -> Decoded:
    """exact: `half.exactly()`. seen: the attention mask of the prompt."""
    half.model.set_attn_implementation(attention)
    found = half.model.generate(
        **{**half.inputs, "attention_mask": seen}, max_new_tokens=new, do_sample=False,
        cache_implementation=cache, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    whole = torch.cat([seen, torch.ones(len(seen), new - 1, dtype=seen.dtype)], 1)
    exact.model.set_attn_implementation("eager")
    with torch.no_grad(), float64_throughout():
        logits = exact.model(
            found.sequences[:, :-1],
            attention_mask=whole,
            position_ids=(whole.cumsum(1) - 1).clamp(min=0),
        ).logits[:, -new:]
    return Decoded(found.sequences[:, -new:], torch.stack(found.logits, 1).double(), logits)


def _apart(a: Tensor, b: Tensor) -> float:
    return (a.double() - b).abs().max().item()
