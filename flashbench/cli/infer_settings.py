"""A study of inference from the command's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from flashbench.cli.readers import ONE_COUNT, OPTIONS, Options, many, read_params
from flashbench.cli.values import parse_choices, parse_whole, parse_wholes
from flashbench.studies.infer.models import settings_of
from flashbench.studies.infer.study import ATTENTIONS, InferDtype, InferStudy


def _models(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        settings_of(name)  # raises ConfigError
    return names


def _attentions(option: str, text: str) -> list[str]:
    return parse_choices(option, text, {word: word for word in ATTENTIONS})


def _dtypes(option: str, text: str) -> list[str]:
    return parse_choices(option, text, {word: word for word in get_args(InferDtype)})


def _tokens(option: str, text: str) -> list[int]:
    return [] if text.strip().lower() == "none" else parse_wholes(option, text)


def _depths(option: str, text: str) -> list[int]:
    return [0 if part.strip() == "0" else parse_whole(option, part, also="0 or ") for part in text.split(",")]


_OPTIONS: Options = {
    "models": ("models", many(_models)),
    "attention": ("attentions", many(_attentions)),
    "dtype": ("dtypes", many(_dtypes)),
    "prompt": ("prompt", many(_tokens)),
    "generate": ("generate", many(_tokens)),
    "depth": ("depths", many(_depths)),
    "batch": ("batch", parse_whole),
    **{
        name: OPTIONS[name]
        for name in ("cpus", "repeats", "rounds", "seed", "memory", "memory_budget", "timeout")
    },
    "threads": ONE_COUNT,
}


def build_infer_study(params: Mapping[str, Any]) -> InferStudy:
    """The study of the command's parameters. Raises ConfigError for a bad option."""
    return InferStudy(**read_params(params, _OPTIONS))
