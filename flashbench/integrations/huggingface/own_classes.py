"""Models that choose their layers' attention class from a dict, which has only transformers' own names.

A dict counts as such if it has an nn.Module class under "eager", in a module or class that the model is made
of. Our attentions get the eager class there, because they get eager's masks.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Container, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

from torch.nn import Module
from transformers import PreTrainedModel

from flashbench.integrations.stack import level_outside


def watch_models(ours: Container[str]) -> None:
    """From now on, a model made with one of these attentions finds a class for it in its own dicts."""
    # Every model calls this method before it makes its layers.
    original = PreTrainedModel.get_correct_attn_implementation
    if hasattr(original, "_flashbench"):
        return

    @wraps(original)
    def get_correct_attn_implementation(self: Any, *args: Any, **kwargs: Any) -> str:
        name: str = original(self, *args, **kwargs)
        if name in ours:
            _eager_classes_for(type(self), name)
        return name

    get_correct_attn_implementation._flashbench = True  # type: ignore[attr-defined]
    PreTrainedModel.get_correct_attn_implementation = get_correct_attn_implementation


def _eager_classes_for(model: type[Module], name: str) -> None:
    """Put each dict's "eager" class under this name too, and warn once per dict."""
    for where, classes in _dicts_of_classes(model):
        if name not in classes:
            eager = classes[name] = classes["eager"]
            warnings.warn(
                f"{model.__name__} takes its attention from classes of its own ({where}), which flashbench"
                f" does not replace: those layers go on with {eager.__name__}, their eager attention",
                stacklevel=level_outside("transformers.", __name__),
            )


def _dicts_of_classes(model: type[Module]) -> Iterator[tuple[str, dict[str, type[Module]]]]:
    for module in _modules_of(model):
        owners: list[Any] = [module, *(x for x in _layers_in(module) if x.__module__ == module.__name__)]
        for owner in owners:
            for variable, value in list(vars(owner).items()):
                if type(value) is dict and _is_layer(value.get("eager")):
                    yield variable if owner is module else f"{owner.__name__}.{variable}", value


def _modules_of(model: type[Module]) -> list[ModuleType]:
    """The modules that define the model and its bases, and all modules whose layers these import, in turn."""
    names = list(dict.fromkeys(base.__module__ for base in model.__mro__))
    for name in names:  # the loop appends to it
        if name in sys.modules:
            names += {layer.__module__ for layer in _layers_in(sys.modules[name])}.difference(names)
    return [sys.modules[name] for name in names if name in sys.modules]


def _layers_in(module: ModuleType) -> list[type[Module]]:
    if module.__name__.partition(".")[0] in ("torch", "builtins"):
        return []
    return [x for x in list(vars(module).values()) if _is_layer(x)]


def _is_layer(x: Any) -> bool:
    return isinstance(x, type) and issubclass(x, Module)
