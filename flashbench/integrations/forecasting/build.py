"""Builds any of the six models from one call or one `ModelConfig`."""

from __future__ import annotations

import inspect
from typing import Any

from flashbench.errors import AttentionError
from flashbench.integrations.forecasting.choice import ORIGINAL, Choice
from flashbench.integrations.forecasting.models import ForecastingModel, find_model
from flashbench.integrations.forecasting.swapping import swap_modules
from flashbench.modules import ModelConfig

_DROPOUTS = ("dropout", "attn_dropout", "fc_dropout", "head_dropout")


def build_model(
    key: str,
    config: ModelConfig | None = None,
    *,
    h: int,
    input_size: int,
    attention: str | None = None,
    variant: str | None = None,
    n_series: int | None = None,
    dropout: float | None = None,
    **settings: Any,
) -> Any:
    """A model of neuralforecast with the chosen attention. Its parameters stay the same.

    Args:
        key: one of `MODELS`.
        config: chooses the attention in place of `attention`: flash or standard, and the size of flash
            attention's tiles. Only TFT, which is always causal, allows flash_causal=True: the model decides
            which keys a query sees.
        h: horizon, in steps. input_size: context, in steps.
        attention: "flash" (also for None), "standard", "torch-flash", "torch-math", or "original", which is
            neuralforecast's own.
        variant: "full-attention" for Informer, Autoformer and FEDformer, whose own block is not softmax
            attention. The model's name is then "Informer (full attention)".
        n_series: the number of series, for iTransformer. Other models ignore it.
        dropout: sets every dropout of the model, its attention's too, except those in settings. None keeps
            neuralforecast's defaults.
        settings: further arguments of the model's class.

    Raises:
        AttentionError: an argument breaks a rule.
        EngineError: the extra `models` is not installed, or the attention is unknown.
        UnsupportedError: the model has no softmax attention and variant is None, or input_size is longer than
            it takes.
    """
    model = find_model(key)
    choice = _choice(model, config, attention)
    model.check(choice.attention, variant)
    model.check_context(input_size)
    cls = model.cls()
    if model.multivariate:
        if n_series is None:
            raise AttentionError(f"n_series must say how many series {model.name} is for, not be None")
        settings["n_series"] = n_series
    if dropout is not None:
        settings = {name: dropout for name in _DROPOUTS if name in _parameters(cls)} | settings
    built = cls(h=h, input_size=input_size, **settings)
    return built if choice.attention == ORIGINAL else swap_modules(built, choice, variant)


def _choice(model: ForecastingModel, config: ModelConfig | None, attention: str | None) -> Choice:
    if config is None:
        return Choice("flash" if attention is None else attention)
    if attention is not None:
        raise AttentionError(f"attention ({attention!r}) and config both say which attention; give one")
    if config.flash_causal and model.key != "tft":
        raise AttentionError(
            f"flash_causal must be False for {model.name}, whose queries see later keys: "
            "with True it would be another model"
        )
    if config.use_flash_attention:
        return Choice("flash", config.flash_block_size)
    return Choice("standard")


def _parameters(cls: type[Any]) -> set[str]:

    return set(inspect.signature(cls.__init__).parameters)
