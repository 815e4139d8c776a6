"""A study from its three sources: defaults, over them the study file, over that the options given."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import msgspec
import typer

from flashbench.cli.values import (
    or_none,
    parse_above_zero,
    parse_block_sizes,
    parse_choices,
    parse_duration,
    parse_lengths,
    parse_seconds,
    parse_seed,
    parse_share,
    parse_whole,
    parse_wholes,
    parse_window,
)
from flashbench.engines import check_engine_name
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.problem import CausalAlignment, Direction, Dtype, MaskKind
from flashbench.report.units import parse_bytes
from flashbench.studies.duel.settings import Contestant, DuelStudy
from flashbench.studies.engine_list import is_installed, resolve_engines
from flashbench.studies.noise_floor import DEFAULT_SEQLEN
from flashbench.studies.study import SPANNED, Study

Kind = Literal["profile", "sweep"]

# Where `sweep` differs from the defaults of Study.
_SWEEP_DEFAULTS: dict[str, Any] = {
    "engines": ["flash"],
    "seq_lens": [128, 256, 512, 1024, 2048, 4096],
    "block_sizes": ["auto", 16, 32, 64, 128, 256],
    "causal": [False, True],
    "rounds": 3,  # a grid is wide, and its neighbours bear each other out
}
# Where `decode` does: the attention of a model of today, over lengths at which memory decides.
_DECODE_DEFAULTS: dict[str, Any] = {
    "seq_lens": [2048, 4096, 8192, 16384, 32768],
    "heads": [32],
    "head_dims": [128],
    "dtypes": ["float32"],
}
_DECODE_KV_HEADS = 8
_DECODE_ENGINES = ("flash", "torch-flash")  # those that are installed
# What a study file may say where only certain words will do.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "dtypes": get_args(Dtype),
    "directions": get_args(Direction),
    "causal_alignment": get_args(CausalAlignment),
    "block_sizes": ("auto", "whole numbers from 1 up"),
    "windows": ("none", "whole numbers from 0 up", "pairs of these"),
    "mask": get_args(MaskKind),
}


def _as_given(option: str, value: Any) -> Any:
    return value


def _engines(option: str, words: list[str]) -> list[str]:
    """`all` becomes every engine that is ready; what it leaves out is said in a line each."""
    names, left_out = resolve_engines([name.strip() for word in words for name in word.split(",")])
    for line in left_out:
        typer.echo(line, err=True)
    return names


def _causal(option: str, value: bool | str) -> list[bool]:
    if isinstance(value, bool):  # profile's --causal/--no-causal
        return [value]
    return parse_choices(option, value, {"both": [False, True], "yes": [True], "no": [False]}, many=False)[0]


def _dtypes(option: str, text: str) -> list[str]:
    return parse_choices(option, text, {word: word for word in get_args(Dtype)})


def _directions(option: str, text: str) -> list[str]:
    return parse_choices(option, text, {"fwd": "fwd", "bwd": "bwd", "fwd+bwd": "fwd_bwd"})


def _alignment(option: str, text: str) -> str:
    known: dict[str, str] = {word: word for word in get_args(CausalAlignment)}
    return parse_choices(option, text, known, many=False)[0]


def _windows(option: str, words: list[str]) -> list[Any]:
    return [parse_window(option, word) for word in words]


def _mask(option: str, text: str) -> str | None:
    known: dict[str, str | None] = {"none": None} | {word: word for word in get_args(MaskKind)}
    return parse_choices(option, text, known, many=False)[0]


# Parameter of a command -> (its option, the field of Study, how its value is read).
_OPTIONS: Mapping[str, tuple[str, str, Callable[[str, Any], Any]]] = {
    "seq_lens": ("--seq-lens", "seq_lens", parse_wholes),
    "seq_len_k": ("--seq-len-k", "seq_len_k", or_none(parse_whole)),
    "decode": ("--decode", "decode", _as_given),
    "queries": ("--queries", "queries", parse_whole),
    "batch": ("--batch", "batch", parse_whole),
    "heads": ("--heads", "heads", parse_wholes),
    "kv_heads": ("--kv-heads", "kv_heads", parse_whole),
    "head_dim": ("--head-dim", "head_dims", parse_wholes),
    "dtype": ("--dtype", "dtypes", _dtypes),
    "causal": ("--causal", "causal", _causal),
    "causal_alignment": ("--causal-alignment", "causal_alignment", _alignment),
    "window": ("--window", "windows", _windows),
    "softcap": ("--softcap", "softcap", or_none(parse_above_zero)),
    "alibi": ("--alibi", "alibi", _as_given),
    "sinks": ("--sinks", "sinks", _as_given),
    "mask": ("--mask", "mask", _mask),
    "mask_axes": ("--mask-axes", "mask_axes", lambda option, text: text.strip()),
    "mask_block": ("--mask-block", "mask_block", parse_whole),
    "dropout": ("--dropout", "dropout", parse_share),
    "dropout_seed": ("--dropout-seed", "dropout_seed", parse_seed),
    "key_lengths": ("--key-lengths", "key_lengths", or_none(parse_lengths)),
    "varlen": ("--varlen", "varlen", or_none(parse_lengths)),
    "page_size": ("--page-size", "page_size", or_none(parse_whole)),
    "direction": ("--direction", "directions", _directions),
    "engine": ("--engine", "engines", _engines),
    "block_sizes": ("--block-size", "block_sizes", parse_block_sizes),
    "block_q": ("--block-q", "block_q", parse_whole),
    "block_k": ("--block-k", "block_k", parse_whole),
    "threads": ("--threads", "threads", parse_whole),
    "repeats": ("--repeats", "repeats", parse_whole),
    "rounds": ("--rounds", "rounds", parse_whole),
    "budget": ("--budget", "budget_s", parse_duration),
    "cold": ("--cold", "cold", _as_given),
    "seed": ("--seed", "seed", parse_seed),
    "memory": ("--memory", "memory", _as_given),
    "check": ("--check", "check", _as_given),
    "memory_budget": (
        "--memory-budget",
        "memory_budget_bytes",
        lambda name, text: parse_bytes(text, name=name),
    ),
    "timeout": ("--timeout", "timeout_s", parse_seconds),
}


def build_study(
    kind: Kind, params: Mapping[str, Any], *, defaults: Mapping[str, Any] = MappingProxyType({})
) -> Study:
    """The study that a command's parameters ask for; None and an empty list are "not given".

    `defaults` are the command's own, where those are not the kind's.

    Raises ConfigError for a bad option or study file, AttentionError for an impossible problem.
    """
    values = {} if params.get("config") is None else _file_settings(Path(params["config"]), kind)
    given = {
        field: read(option, params[name])
        for name, (option, field, read) in _OPTIONS.items()
        if params.get(name) not in (None, [], ())
    }
    if "block_sizes" in given:
        if "block_q" in given or "block_k" in given:
            raise ConfigError("--block-size sets both block sizes: give it, or --block-q with --block-k")
        values |= {"block_q": None, "block_k": None}
    if "rounds" in given:
        if "budget_s" in given:
            raise ConfigError("--budget decides how many rounds there are: give it, or --rounds")
        values |= {"budget_s": None}
    study = _convert(_defaults(kind, values | given, defaults) | values | given)
    _check_points(study)
    return study


def _defaults(
    kind: Kind, chosen: Mapping[str, Any], own: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """What stands in for what was not chosen, where that is not the default of Study."""
    values: dict[str, Any] = {"kind": kind, **(_SWEEP_DEFAULTS if kind == "sweep" else {}), **own}
    if chosen.get("decode"):
        values |= _DECODE_DEFAULTS
        if "heads" not in chosen:
            values["kv_heads"] = _DECODE_KV_HEADS
        if kind == "profile":
            values["engines"] = [name for name in _DECODE_ENGINES if is_installed(name)]
        if chosen.get("queries", 1) != 1:
            values["causal"] = [True]  # a query of a step does not see those after it
    varlen = chosen.get("varlen")
    if isinstance(varlen, list) and all(isinstance(length, int) for length in varlen) and varlen:
        values["seq_lens"] = [max(varlen)]
    return values


def build_duel(params: Mapping[str, Any]) -> DuelStudy:
    """The duel that the parameters of the command ask for.

    Raises EngineError for an engine that is unknown here, ConfigError for a bad option, AttentionError for an
    impossible problem.
    """
    a = Contestant(engine=params["a"], python=params["python_a"])
    b = Contestant(engine=params["b"] or params["a"], python=params["python_b"])
    for side in (a, b):
        if (
            side.python is None
        ):  # another environment may have other engines: it is asked before the first round
            check_engine_name(side.engine)
    if params["aa"] and (params["b"] or params["python_a"] or params["python_b"]):
        raise ConfigError("--aa is A against itself, here: it takes no B and no --python-a or --python-b")
    if a == b and not params["aa"]:
        raise ConfigError(
            f"A and B are both {a.engine} of the same environment",
            hint="name another engine, --python-a or --python-b; --aa measures the noise floor",
        )
    known = {name: params[name] for name in _OPTIONS if name in params and name != "rounds"}
    study = build_study("profile", {**known, "memory": False}, defaults={"seq_lens": [DEFAULT_SEQLEN]})
    study = msgspec.structs.replace(study, engines=[a.engine])  # not resolved here, where it need not exist
    if params["aa"] and len(study.points()) > 1:
        raise ConfigError(f"--aa measures the noise floor of one problem, not of {len(study.points())}")
    return DuelStudy(
        a=a,
        b=b,
        study=study,
        threshold=parse_share("--threshold", params["threshold"]),
        rounds=None if params["rounds"] is None else parse_whole("--rounds", params["rounds"]),
        looks=parse_whole("--looks", params["looks"]),
    )


def load_study(path: str | Path) -> Study:
    """The study of a file alone, of the kind that it states.

    Raises ConfigError that begins with the file's name.
    """
    values = _file_settings(Path(path), None)
    study = _convert(_defaults(values.get("kind", "profile"), values) | values)
    _check_points(study)
    return study


def read_toml(path: Path) -> dict[str, Any]:
    """A study file's keys and values. Raises ConfigError."""
    try:
        values: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"study file {path} is not found") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {_lower_first(str(error))}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {path}: {_lower_first(str(reason))}") from error
    return values


def check_keys(path: Path, values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ConfigError for a key that is none of a study's."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(
                f"{path} has the unknown key {key!r}; known: {', '.join(known)}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )


def _file_settings(path: Path, kind: Kind | None) -> dict[str, Any]:
    """The file's keys and values, once they are known to make a study on their own."""
    values = read_toml(path)
    if values.get("kind") == "train":
        raise ConfigError(f"{path} is a study of kind 'train'", hint=f"flashbench train --config {path}")
    check_keys(path, values, Study.__struct_fields__)
    try:
        study = _convert(_defaults(values.get("kind", kind or "profile"), values) | values)
        _check_points(study)
    except FlashbenchError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from error
    if kind is not None and study.kind != kind:
        raise ConfigError(
            f"{path} is a study of kind {study.kind!r}, and this command is {kind!r}",
            hint=f"flashbench {study.kind} --config {path}",
        )
    return values


def _convert(values: Mapping[str, Any]) -> Study:
    try:
        return msgspec.convert(values, type=Study)
    except msgspec.ValidationError as error:
        raise ConfigError(field_error(str(error))) from error


def field_error(text: str) -> str:
    """From "Expected `int`, got `str` - at `$.seq_lens[0]`": "seq_lens[0]: expected `int`, got `str`"."""
    match = re.fullmatch(r"(.*) - at `\$\.((\w+).*)`", text)
    if match is None:
        return _lower_first(text)
    rule, place, field = match.groups()
    known = _WORDS.get(field) if rule.startswith("Invalid enum value") else None
    return f"{place}: {_lower_first(rule)}" + (f"; known: {', '.join(known)}" if known else "")


def _check_points(study: Study) -> None:
    """Refuse what would be measured twice, and problems that cannot be, before anything runs."""
    for field in SPANNED:
        values = getattr(study, field)
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{field} names {value} twice")
    points = study.points()
    if len(set(points)) < len(points):  # all else is told apart by what it is called
        raise ConfigError("windows names two that are the same under a causal mask, whose right side is 0")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
