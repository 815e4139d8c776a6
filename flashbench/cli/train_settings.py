"""A training study: options win over the study file, and the study file over defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from flashbench.cli.readers import ONE_COUNT, OPTIONS, Options, as_given, many, read_file_values, read_params
from flashbench.cli.settings import check_keys, field_error, read_toml
from flashbench.cli.values import parse_choices, parse_whole, parse_wholes
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.integrations.forecasting.choice import VARIANT
from flashbench.integrations.forecasting.models import MODELS
from flashbench.studies.train.study import ATTENTIONS, DATA, Setting, TrainStudy


def _models(option: str, text: str) -> list[str]:
    return parse_choices(option, text, {key: key for key in MODELS})


def _attentions(option: str, text: str) -> list[str]:
    return parse_choices(option, text, {word: word for word in ATTENTIONS})


def _variant(option: str, text: str) -> str | None:
    known: dict[str, str | None] = {"none": None, VARIANT: VARIANT}
    return parse_choices(option, text, known, many=False)[0]


def _data(option: str, text: str) -> str:
    known: dict[str, str] = {word: word for word in get_args(DATA)}
    return parse_choices(option, text, known, many=False)[0]


def _settings(option: str, words: list[str]) -> dict[str, dict[str, Setting]]:
    """`tft.hidden_size=64` and the like, by model. A value is JSON, or else a word."""
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
        found.setdefault(_models(f"MODEL of {option}", model)[0], {})[name] = read
    return found


def _autocast(option: str, text: str) -> str | None:
    known: dict[str, str | None] = {"none": None, "bfloat16": "bfloat16"}
    return parse_choices(option, text, known, many=False)[0]


_OPTIONS: Options = {
    "models": ("models", many(_models)),
    "attention": ("attentions", many(_attentions)),
    "variant": ("variant", _variant),
    "context_lengths": ("context_lengths", many(parse_wholes)),
    "horizon": ("horizon", parse_whole),
    "windows": ("windows", parse_whole),
    "data": ("data", _data),
    "csv": ("csv", as_given),
    "series": ("series", parse_whole),
    "patch_stride": ("patch_stride", parse_whole),
    "autocast": ("autocast", _autocast),
    **{
        name: OPTIONS[name]
        for name in ("cpus", "repeats", "rounds", "seed", "memory", "memory_budget", "timeout")
    },
    "threads": ONE_COUNT,
}
_LISTS = ("models", "attentions", "context_lengths")


def build_train_study(params: Mapping[str, Any]) -> TrainStudy:
    """The study of the command's parameters. Raises ConfigError for a bad option or study file."""
    values: dict[str, Any] = {}
    if params.get("config") is not None:
        values = _file_settings(Path(params["config"]))
    given = read_params(params, _OPTIONS)
    if "csv" in given and "data" in given:
        raise ConfigError("--csv is the data: give it, or --data")
    if params.get("set_"):  # added to those of the file, model by model
        own, asked = values.get("settings", {}), _settings("--set", params["set_"])
        given["settings"] = {model: own.get(model, {}) | asked.get(model, {}) for model in own | asked}
    return _convert(values | given)


def _file_settings(path: Path) -> dict[str, Any]:
    values = read_toml(path)
    check_keys(path, values, TrainStudy.__struct_fields__)
    if values.get("kind") != "train":
        raise ConfigError(f'{path} must have kind = "train", not {values.get("kind", "profile")!r}')
    try:
        values = read_file_values(values, _OPTIONS, lists=_LISTS)
        if isinstance(values.get("settings"), dict):
            values["settings"] = {
                _models("settings", model)[0]: settings for model, settings in values["settings"].items()
            }
        _convert(values)
    except FlashbenchError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from error
    return values


def _convert(values: Mapping[str, Any]) -> TrainStudy:
    try:
        return msgspec.convert(values, type=TrainStudy)
    except msgspec.ValidationError as error:
        raise ConfigError(field_error(str(error))) from error
