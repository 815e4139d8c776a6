"""Changes the attention of one model in place: its attention modules get another class.

Parameters, buffers and submodules stay, so state_dict, copies and pickles work as before.
"""

from __future__ import annotations

from typing import Any

from flashbench.errors import UnsupportedError
from flashbench.integrations.forecasting.choice import ORIGINAL, Choice
from flashbench.integrations.forecasting.models import ABLATION, check_variant, labelled, load, unlabelled


def swap(
    model: Any, attention: str = "flash", variant: str | None = None, *, block_size: int | None = None
) -> Any:
    """Change the attention of `model` in place, and return the model. "original" undoes it.

    variant="full-attention" also replaces the blocks of Informer, Autoformer and FEDformer. The model's name
    is then "Informer (full attention)". neuralforecast's save and load keep weights and settings, but not the
    attention: swap again after loading.

    attention: as in `build_model`. block_size: size of flash attention's tiles.
    Raises AttentionError, EngineError and UnsupportedError for wrong arguments. UnsupportedError also if the
    model has other blocks than softmax attention and variant is None.
    """
    check_variant(variant)
    return swap_modules(model, Choice(attention, block_size), variant)


def swap_modules(model: Any, choice: Choice, variant: str | None) -> Any:
    """`swap` with checked arguments."""
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
    """Change the alias, which neuralforecast prints and uses to name columns. A bare block has none."""
    if not hasattr(model, "alias"):
        return
    own = type(model).__name__
    name = to(model.alias or own)
    model.alias = None if name == own else name
    if hasattr(model, "hparams") and "alias" in model.hparams:
        model.hparams["alias"] = model.alias
