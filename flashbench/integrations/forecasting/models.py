"""The six models, and what each has in place of softmax attention as neuralforecast ships it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from flashbench.errors import AttentionError, EngineError, UnsupportedError
from flashbench.integrations.forecasting.choice import ORIGINAL, VARIANT


@dataclass(frozen=True)
class ForecastingModel:
    """One of neuralforecast's transformers."""

    key: str
    name: str  # name of its class
    own_attention: str | None = None  # what it has instead of softmax attention
    multivariate: bool = False  # all series are one input, so the model depends on their number
    most_context: int | None = None  # longest context in steps: the length of its table of positions

    @property
    def exact(self) -> bool:
        """Whether the model as shipped has exact softmax attention."""
        return self.own_attention is None

    def cls(self) -> type[Any]:
        """The model's class. Raises EngineError without neuralforecast."""
        found: type[Any] = getattr(load("neuralforecast.models"), self.name)
        return found

    def label(self, variant: str | None = None) -> str:
        """The name of its results. A variant is another model, so it has another name."""
        return self.name if variant is None else labelled(self.name)

    def check(self, attention: str, variant: str | None) -> None:
        """Raise UnsupportedError if the attention cannot compute this model or variant.

        Raises AttentionError for an unknown variant.
        """
        check_variant(variant)
        if variant is not None and self.exact:
            raise UnsupportedError(
                f"{self.name} has softmax attention as it is; variant={VARIANT!r} is for "
                + ", ".join(m.name for m in MODELS.values() if not m.exact)
            )
        if variant is not None and attention == ORIGINAL:
            raise UnsupportedError(f"attention={ORIGINAL!r} is {self.name} as shipped, without a variant")
        if variant is None and not self.exact and attention != ORIGINAL:
            raise UnsupportedError(
                f"{self.name} has {self.own_attention} instead of softmax attention",
                hint=ABLATION,
            )

    def check_context(self, input_size: int) -> None:
        """Raise UnsupportedError if the context, in steps, is longer than the model takes."""
        if self.most_context is not None and input_size > self.most_context:
            raise UnsupportedError(
                f"{self.name} takes contexts up to {self.most_context}, as far as its table of positions "
                f"goes, not {input_size}"
            )


# A hint for models without softmax attention.
ABLATION = f"variant={VARIANT!r} is the ablation with softmax attention in its place: another model"

MODELS = MappingProxyType(
    {
        model.key: model
        for model in (
            ForecastingModel("tft", "TFT"),
            ForecastingModel("informer", "Informer", "ProbSparse", most_context=5000),
            ForecastingModel("autoformer", "Autoformer", "auto-correlation"),
            ForecastingModel("fedformer", "FEDformer", "Fourier block"),
            ForecastingModel("patchtst", "PatchTST"),
            ForecastingModel("itransformer", "iTransformer", multivariate=True),
        )
    }
)


def find_model(key: str) -> ForecastingModel:
    """The model of that key. An unknown key raises AttentionError, which lists the known ones."""
    try:
        return MODELS[key]
    except KeyError:
        raise AttentionError(f"model must be one of {', '.join(MODELS)}, not {key!r}") from None


def most_context(label: str) -> int | None:
    """The longest context, in steps, of the model with that label; None: no limit, or not one of the six."""
    name = unlabelled(label)
    return next((model.most_context for model in MODELS.values() if model.name == name), None)


def check_variant(variant: str | None) -> None:
    if variant not in (None, VARIANT):
        raise AttentionError(f"variant must be None or {VARIANT!r}, not {variant!r}")


def labelled(name: str) -> str:
    """The name of the variant with full attention."""
    return name + _SUFFIX


def unlabelled(name: str) -> str:
    """The name without what `labelled` added."""
    return name.removesuffix(_SUFFIX)


def load(module: str) -> Any:
    """Import a module that needs the extra `models`. Raises EngineError if that is not installed."""
    check_installed()
    return import_module(module)


def check_installed(*others: str) -> None:
    """Raise EngineError if a package of the extra `models`, or of `others`, is missing. Imports none."""
    for package in ("torch", "neuralforecast", *others):
        if find_spec(package) is None:
            raise EngineError(
                f"forecasting models need {package}, which is not installed",
                hint="pip install 'flashbench[models]'",
            )


_SUFFIX = " (full attention)"
