"""Attention of one model, changed in place: its modules become of classes that compute it another way.

Parameters, buffers and submodules stay where they are, so state_dict, copies and pickles work as before.
"""

from __future__ import annotations

from typing import Any

from flashbench.errors import UnsupportedError
from flashbench.integrations.forecasting.choice import ORIGINAL, Choice
from flashbench.integrations.forecasting.models import ABLATION, check_variant, labelled, load, unlabelled


def swap(
    model: Any, attention: str = "flash", variant: str | None = None, *, block_size: int | None = None
) -> Any:
    """The same model, whose attention is now the one named; "original" undoes it.

    variant="full-attention" also replaces the blocks of Informer, Autoformer and FEDformer, after which the
    model is called "Informer (full attention)"; without it UnsupportedError says what such a model has.
    neuralforecast's own save and load keep weights and settings, not this: swap again after loading.
    """
    check_variant(variant)
    return swap_modules(model, Choice(attention, block_size), variant)


def swap_modules(model: Any, choice: Choice, variant: str | None) -> Any:
    """`swap` of what has been checked."""
    replacements = load("flashbench.integrations.forecasting.blocks").REPLACEMENTS
    found = [
        (module, replacement)
        for module in model.modules()
        for replacement in replacements
        if isinstance(module, replacement.original)
    ]
    if not found:
        raise UnsupportedError(f"{type(model).__name__} has no attention that can be swapped")
    if choice.attention == ORIGINAL:
        for module, replacement in found:
            module.__class__ = replacement.original
            vars(module).pop("choice", None)
        _rename(model, unlabelled)
        return model
    others = sorted({replacement.instead_of for _, replacement in found} - {None})
    if others and variant is None:
        raise UnsupportedError(
            f"{type(model).__name__} has {' and '.join(others)} instead of softmax attention",
            hint=ABLATION,
        )
    for module, replacement in found:
        module.__class__ = replacement
        module.choice = choice
    if others:
        _rename(model, lambda name: labelled(unlabelled(name)))
    return model


def _rename(model: Any, to: Any) -> None:
    """By its alias, which neuralforecast names columns and prints models by; a bare block has none."""
    if not hasattr(model, "alias"):
        return
    own = type(model).__name__
    name = to(model.alias or own)
    model.alias = None if name == own else name
    if hasattr(model, "hparams") and "alias" in model.hparams:
        model.hparams["alias"] = model.alias
