"""A training study from its three sources: defaults, the study file over them, the options over both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from flashbench.cli.settings import check_keys, field_error, read_toml
from flashbench.cli.values import parse_seconds, parse_seed, parse_whole, parse_wholes
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.integrations.forecasting.models import find_model
from flashbench.report.units import parse_bytes
from flashbench.studies.train.study import Setting, TrainStudy


def _names(option: str, text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _settings(option: str, words: list[str]) -> dict[str, dict[str, Setting]]:
    """`tft.hidden_size=64` and others, by model; a value is read as JSON, or is a word."""
    found: dict[str, dict[str, Setting]] = {}
    for word in words:
        place, equals, value = word.partition("=")
        model, dot, name = place.strip().partition(".")
        if not (equals and dot and name and value.strip()):
            raise ConfigError(f"{option} takes MODEL.NAME=VALUE, such as tft.hidden_size=64, not {word!r}")
        try:
            read: Setting = msgspec.json.decode(value, type=Setting)
        except msgspec.DecodeError:
            read = value.strip()
        found.setdefault(model, {})[name] = read
    return found


# Parameter of the command -> (its option, the field of TrainStudy, how its value is read).
_OPTIONS: Mapping[str, tuple[str, str, Callable[[str, Any], Any]]] = {
    "models": ("--models", "models", _names),
    "attention": ("--attention", "attentions", _names),
    "variant": ("--variant", "variant", lambda option, text: text),
    "context_lengths": ("--context-lengths", "context_lengths", parse_wholes),
    "horizon": ("--horizon", "horizon", parse_whole),
    "windows": ("--windows", "windows", parse_whole),
    "data": ("--data", "data", lambda option, text: text),
    "csv": ("--csv", "csv", lambda option, text: text),
    "series": ("--series", "series", parse_whole),
    "patch_stride": ("--patch-stride", "patch_stride", parse_whole),
    "set_": ("--set", "settings", _settings),
    "threads": ("--threads", "threads", parse_whole),
    "repeats": ("--repeats", "repeats", parse_whole),
    "rounds": ("--rounds", "rounds", parse_whole),
    "seed": ("--seed", "seed", parse_seed),
    "memory": ("--memory", "memory", lambda option, value: value),
    "memory_budget": (
        "--memory-budget",
        "memory_budget_bytes",
        lambda name, text: parse_bytes(text, name=name),
    ),
    "timeout": ("--timeout", "timeout_s", parse_seconds),
}


def build_train_study(params: Mapping[str, Any]) -> TrainStudy:
    """The study that the command's parameters ask for. Raises ConfigError for a bad option or study file."""
    values: dict[str, Any] = {}
    if params.get("config") is not None:
        values = _file_settings(Path(params["config"]))
    given = {
        field: read(option, params[name])
        for name, (option, field, read) in _OPTIONS.items()
        if params.get(name) not in (None, [], ())
    }
    if "csv" in given and "data" in given:
        raise ConfigError("--csv is the data: give it, or --data")
    if "settings" in given:  # beside those of the file, model by model
        own = values.get("settings", {})
        given["settings"] = {
            model: own.get(model, {}) | given["settings"].get(model, {}) for model in own | given["settings"]
        }
    return _convert(values | given)


def _file_settings(path: Path) -> dict[str, Any]:
    values = read_toml(path)
    check_keys(path, values, TrainStudy.__struct_fields__)
    if values.get("kind") != "train":
        raise ConfigError(f'{path} must have kind = "train", not {values.get("kind", "profile")!r}')
    try:
        _convert(values)
    except FlashbenchError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from error
    return values


def _convert(values: Mapping[str, Any]) -> TrainStudy:
    try:
        study = msgspec.convert(values, type=TrainStudy)
    except msgspec.ValidationError as error:
        raise ConfigError(field_error(str(error))) from error
    for model in (*study.models, *study.settings):
        find_model(model)
    return study
