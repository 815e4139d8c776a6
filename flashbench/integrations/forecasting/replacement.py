"""Replaces the attention of every neuralforecast model in the process, for a block of code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from flashbench.integrations.forecasting.choice import ORIGINAL, Choice
from flashbench.integrations.forecasting.models import MODELS, check_variant, labelled, load, unlabelled

_lock = threading.Lock()
_requests: dict[object, tuple[Choice, str | None]] = {}  # in order; the last one applies


@contextlib.contextmanager
def forecasting_attention(
    attention: str = "flash", variant: str | None = None, *, block_size: int | None = None
) -> Iterator[None]:
    """Within the block, neuralforecast's models compute this attention, in all threads of the process.

    TFT, PatchTST, iTransformer and all others with FullAttention stay the same models. Informer, Autoformer
    and FEDformer do not change. With variant="full-attention", softmax attention replaces their own blocks,
    and they print and name their forecasts as "Informer (full attention)". Models that `swap` or
    `build_model` changed keep their attention. Blocks may be nested: the innermost applies.

    attention, variant: as in `build_model`. block_size: size of flash attention's tiles.
    Raises AttentionError, EngineError and UnsupportedError for wrong arguments.
    """
    check_variant(variant)
    choice = Choice(attention, block_size)
    load("flashbench.integrations.forecasting.blocks")
    block = object()
    with _lock:
        _requests[block] = choice, variant
        _install()
    try:
        yield
    finally:
        with _lock:
            _requests.pop(block)
            _install()


def _install() -> None:
    choice, variant = next(reversed(_requests.values()), (Choice(ORIGINAL), None))
    replaces = choice.attention != ORIGINAL
    for replacement in load("flashbench.integrations.forecasting.blocks").REPLACEMENTS:
        if replaces and (replacement.instead_of is None or variant is not None):
            replacement.original.forward = replacement.forward_with(choice)
        else:
            replacement.original.forward = replacement.original_forward
    for model in MODELS.values():
        if not model.exact:
            _label(model.cls(), replaces and variant is not None)


def _label(cls: type[Any], is_variant: bool) -> None:
    if is_variant:
        setattr(cls, "__repr__", _labelled_repr)  # noqa: B010
    elif vars(cls).get("__repr__") is _labelled_repr:
        del cls.__repr__


def _labelled_repr(model: Any) -> str:
    """neuralforecast prints a model by its repr, and names its forecasts by it."""
    return labelled(unlabelled(model.alias or type(model).__name__))
