"""The test that a worker measures: a prefill or some steps of decoding, of one model with one attention."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any

import msgspec

from flashbench.errors import UnsupportedError
from flashbench.studies.infer.models import settings_of
from flashbench.studies.infer.study import InferPoint, InferStudy

FACTORY = "flashbench.studies.infer.workload:build"
COMPARED_TOKENS = 8  # that every arm chooses after the same prompt
COMPARED_PROMPT = 32
MARKED_CALLS = 2  # with a clock around attention, after the timed calls


def arguments(point: InferPoint, study: InferStudy) -> dict[str, Any]:
    """The arguments with which `build` makes this point's workload in another process."""
    return {"point": list(point), "study": msgspec.to_builtins(study)}


def build(point: list[Any], study: dict[str, Any]) -> InferWorkload:
    """The workload of `arguments`."""
    return InferWorkload(InferPoint(*point), msgspec.convert(study, InferStudy))


class InferWorkload:
    """Repeats one test from the same cache: what a call adds to it is cut off again."""

    def __init__(self, point: InferPoint, study: InferStudy) -> None:
        import torch
        import transformers

        from flashbench.integrations.huggingface import register

        ours = register()
        transformers.logging.set_verbosity_error()
        self._torch, self._point = torch, point
        settings = settings_of(point.model)
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        torch.manual_seed(study.seed)
        attention = ours if point.attention == "flash" else point.attention
        with _default_dtype(torch, getattr(torch, point.dtype)), _refusals(point):
            make = transformers.AutoModelForCausalLM.from_config
            self._model = make(
                config, attn_implementation=attention, dtype=getattr(torch, point.dtype)
            ).eval()
        known = inspect.signature(self._model.forward).parameters
        self._cache_word = "cache" if "cache" in known else "past_key_values"  # before Transformers 5.20
        self._cache = transformers.DynamicCache()  # of full layers: a window is a mask, so it can be cut
        self._vocabulary = config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(study.seed)
        self._prompt = torch.randint(
            1, self._vocabulary, (study.batch, max(point.tokens, 1)), generator=generator
        )
        compared = torch.randint(1, self._vocabulary, (1, COMPARED_PROMPT), generator=generator)
        self._compared = self._chosen(compared)
        if point.depth:
            context = torch.randint(1, self._vocabulary, (study.batch, point.depth), generator=generator)
            for part in context.split(1024, 1):
                self._next(part)

    def call(self) -> None:
        """The whole test. A prefill ends with the first token, decoding with the last."""
        if self._point.test == "prefill":
            self._next(self._prompt)
        else:
            token = self._prompt[:, :1]
            for _ in range(self._point.tokens):
                token = self._next(token)
        self._cut()

    def _next(self, tokens: Any) -> Any:
        """The likeliest token after these, (batch, 1). They are in the cache then."""
        with self._torch.inference_mode():
            logits = self._model(
                tokens, use_cache=True, logits_to_keep=1, **{self._cache_word: self._cache}
            ).logits
            return logits[:, -1].argmax(-1, keepdim=True)

    def _cut(self) -> None:
        if self._point.depth:
            self._cache.crop(-self._point.tokens)  # so many were added
        else:
            self._cache = type(self._cache)()

    def _chosen(self, prompt: Any) -> dict[str, list[Any]]:
        """Tokens that are chosen after a short prompt, and how far each is ahead of the second.

        As a share of the largest logit: rounding may decide between two that are nearly equal.
        """
        tokens, leads = [], []
        with self._torch.inference_mode():
            for _ in range(COMPARED_TOKENS):
                logits = self._model(prompt, use_cache=False, logits_to_keep=1).logits[0, -1].double()
                best = logits.topk(2)
                tokens.append(int(best.indices[0]))
                leads.append(float((best.values[0] - best.values[1]) / logits.abs().max()))
                prompt = self._torch.cat((prompt, best.indices[:1][None]), 1)
        return {"tokens": tokens, "leads": leads}

    def forget(self) -> None:
        """Nothing is kept between calls but the cache."""

    def describe(self) -> dict[str, Any]:
        """Sizes of the model and of the cache."""
        parameters = list(self._model.parameters())
        layers = [(layer.keys, layer.values) for layer in self._cache.layers if layer.keys is not None]
        return {
            "output_bytes": 0,
            "parameters": sum(x.numel() for x in parameters),
            "weight_bytes": sum(x.nbytes for x in parameters),
            "cache_bytes": sum(x.nbytes for pair in layers for x in pair) if self._point.depth else 0,
            "compared_tokens": self._compared["tokens"],
            "compared_leads": self._compared["leads"],
        }

    def check(self) -> dict[str, Any]:
        """Attention's share, of calls that are timed for nothing else."""
        from flashbench.integrations.torch import reset_stats, stats

        reset_stats()
        spent: list[int] = []
        with _timed_attention(self._model, spent):
            began = perf_counter_ns()
            for _ in range(MARKED_CALLS):
                self.call()
            whole = perf_counter_ns() - began
        return {
            "attention_ns": sum(spent) / MARKED_CALLS,
            "attention_share": sum(spent) / whole,
            "attention_calls": len(spent) // MARKED_CALLS,
            "note": "; ".join(f"left to PyTorch: {reason}" for reason in stats().fallbacks) or None,
        }


@contextlib.contextmanager
def _refusals(point: InferPoint) -> Iterator[None]:
    """A model that has no such attention in Transformers is unsupported."""
    try:
        yield
    except ValueError as error:
        if "does not support" not in str(error):
            raise
        raise UnsupportedError(f"Transformers has no {point.attention} attention for this model") from error


@contextlib.contextmanager
def _default_dtype(torch: Any, dtype: Any) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _timed_attention(model: Any, spent: list[int]) -> Iterator[None]:
    """Note the nanoseconds of each call of the model's attention function.

    Eager attention is a function of the module that defines the model; others are in Transformers' table.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = perf_counter_ns()
            found = function(*arguments, **named)
            spent.append(perf_counter_ns() - began)
            return found

        return call

    name = model.config._attn_implementation
    if name == "eager":
        module: Any = sys.modules[type(model).__module__]
        before = module.eager_attention_forward
        module.eager_attention_forward = timed(before)
        try:
            yield
        finally:
            module.eager_attention_forward = before
        return
    before = ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS[name] = timed(before)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[name] = before
