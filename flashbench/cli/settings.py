"""A study from its three sources: options win over the study file, and the study file over defaults."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import msgspec

from flashbench.cli.readers import OPTIONS, all_engines, read_file_values, read_params
from flashbench.cli.values import parse_share, parse_whole
from flashbench.engines import check_engine_name
from flashbench.errors import ConfigError, FlashbenchError, mid_sentence
from flashbench.studies.duel.settings import Contestant, DuelStudy
from flashbench.studies.engine_list import PROBE_TIMEOUT_S, is_installed
from flashbench.studies.noise_floor import DEFAULT_SEQLEN
from flashbench.studies.study import SPANNED, Study

Kind = Literal["profile", "sweep"]

# The defaults of `sweep` that differ from those of Study.
_SWEEP_DEFAULTS: dict[str, Any] = {
    "engines": ["flash"],
    "seq_lens": [128, 256, 512, 1024, 2048, 4096],
    "block_sizes": ["auto", 16, 32, 64, 128, 256],
    "causal": [False, True],
    "rounds": 3,  # a grid has many points, and neighbours confirm each other
}
# Those of `decode`: the attention of a current model, at lengths where memory bandwidth limits.
_DECODE_DEFAULTS: dict[str, Any] = {
    "seq_lens": [2048, 4096, 8192, 16384, 32768],
    "heads": [32],
    "head_dims": [128],
    "dtypes": ["float32"],
}
_DECODE_KV_HEADS = 8
_DECODE_ENGINES = ("flash", "torch-flash")  # if installed


def build_study(
    kind: Kind, params: Mapping[str, Any], *, defaults: Mapping[str, Any] = MappingProxyType({})
) -> Study:
    """The study of a command's parameters; None and an empty list are "not given".

    defaults: the command's own, which win over those of the kind.

    Raises ConfigError for a bad option or study file, AttentionError for an impossible problem.
    """
    values = {} if params.get("config") is None else _file_settings(Path(params["config"]), kind)
    given = read_params(params, OPTIONS)
    timeout_s = given.get("timeout_s", values.get("timeout_s", PROBE_TIMEOUT_S))
    if "engines" in given:
        given["engines"] = all_engines(given["engines"], timeout_s=timeout_s)
    elif "engines" in values:
        values["engines"] = all_engines(values["engines"], timeout_s=timeout_s)
    if "block_sizes" in given:
        if "block_q" in given or "block_k" in given:
            raise ConfigError("--block-sizes sets both block sizes: give it, or --block-q with --block-k")
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
    """Values for keys that were not chosen, if the default is another than that of Study."""
    values: dict[str, Any] = {"kind": kind, **(_SWEEP_DEFAULTS if kind == "sweep" else {}), **own}
    if chosen.get("decode"):
        values |= _DECODE_DEFAULTS
        if "heads" not in chosen:
            values["kv_heads"] = _DECODE_KV_HEADS
        if kind == "profile":
            values["engines"] = [name for name in _DECODE_ENGINES if is_installed(name)]
        if chosen.get("queries", 1) != 1:
            values["causal"] = [True]  # a query of a step must not see later ones
    varlen = chosen.get("varlen")
    if isinstance(varlen, list) and all(isinstance(length, int) for length in varlen) and varlen:
        values["seq_lens"] = [max(varlen)]
    return values


def build_duel(params: Mapping[str, Any]) -> DuelStudy:
    """The duel of the command's parameters.

    Raises EngineError for an engine that is unknown here, ConfigError for a bad option, AttentionError for an
    impossible problem.
    """
    a = Contestant(engine=params["a"], python=params["python_a"], path=params.get("path_a"))
    b = Contestant(engine=params["b"] or params["a"], python=params["python_b"], path=params.get("path_b"))
    for side in (a, b):
        if side.python is None:  # another environment is asked for its engines before the first round
            check_engine_name(side.engine)
    of_a_side = ("b", "python_a", "python_b", "path_a", "path_b")
    if params["aa"] and any(params.get(name) for name in of_a_side):
        raise ConfigError(
            "--aa is A against itself, here: it takes no B and no --python-a or --python-b, --path-a or "
            "--path-b"
        )
    if a == b and not params["aa"]:
        raise ConfigError(
            f"A and B are both {a.engine} of the same environment",
            hint="name another engine, --python-b or --path-b; --aa measures the noise floor",
        )
    known = {name: params[name] for name in OPTIONS if name in params and name != "rounds"}
    study = build_study("profile", {**known, "memory": False}, defaults={"seq_lens": [DEFAULT_SEQLEN]})
    # Not checked here: the engine may exist in the other environment alone.
    study = msgspec.structs.replace(study, engines=[a.engine])
    if len(study.paths) > 1:
        raise ConfigError(
            f"a duel is of one path a side, not of {', '.join(study.paths)}",
            hint="give --path-a and --path-b",
        )
    if len(study.thread_counts) > 1:
        counts = ", ".join(map(str, study.thread_counts))
        raise ConfigError(
            f"a duel is of one number of threads, not of {counts}",
            hint="flashbench profile --threads measures several",
        )
    _check_paths((a, b), study)
    if len(study.settings()) > 1:
        sizes = ", ".join(map(str, study.block_sizes))
        raise ConfigError(
            f"a duel is of one block size, not of {len(study.settings())}: {sizes}",
            hint="flashbench sweep measures several",
        )
    if params["aa"] and len(study.points()) > 1:
        raise ConfigError(f"--aa measures the noise floor of one problem, not of {len(study.points())}")
    return DuelStudy(
        a=a,
        b=b,
        study=study,
        threshold=parse_share("--threshold", params["threshold"]),
        rounds=None if params["rounds"] is None else parse_whole("--rounds", params["rounds"]),
        looks=parse_whole("--looks", params["looks"]),
        load_timeout_s=PROBE_TIMEOUT_S if params.get("timeout") is None else study.timeout_s,
    )


def _check_paths(sides: Sequence[Contestant], study: Study) -> None:
    """Raise ConfigError for a side's path that cannot run here. Another environment may have other paths."""
    for side in sides:
        if side.path is not None and side.python is None:
            from flashbench.kernels.products.paths import path_of  # here: loads Numba

            for dtype in study.dtypes:
                path_of(dtype, side.path)


def load_study(path: str | Path) -> Study:
    """The study of a file without options, of the kind that the file names.

    Raises ConfigError that begins with the file's name.
    """
    values = _file_settings(Path(path), None)
    study = _convert(_defaults(values.get("kind", "profile"), values) | values)
    _check_points(study)
    return study


def read_toml(path: Path) -> dict[str, Any]:
    """A study file's keys and values. Raises ConfigError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"study file {path} is not found") from error
    except (OSError, ValueError) as error:  # ValueError: the name contains a NUL
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {path}: {mid_sentence(str(reason))}") from error
    try:
        values: dict[str, Any] = msgspec.toml.decode(content)
    except RecursionError as error:
        raise ConfigError(f"{path} is not a study: its arrays are nested too deep") from error
    except (msgspec.DecodeError, ValueError) as error:
        # Python's message for its own limit names a function of sys, which does not help here.
        too_long = "digits" in str(error) and "integer string conversion" in str(error)
        reason = "a whole number has too many digits" if too_long else mid_sentence(str(error))
        raise ConfigError(f"{path} is not TOML: {reason}") from error
    return values


def check_keys(path: Path, values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ConfigError for a key that no study has."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(
                f"{path} has the unknown key {key!r}; known: {', '.join(known)}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )


def _file_settings(path: Path, kind: Kind | None) -> dict[str, Any]:
    """The file's keys and values. Raises ConfigError if they make no study by themselves."""
    values = read_toml(path)
    if values.get("kind") == "train":
        raise ConfigError(f"{path} is a study of kind 'train'", hint=f"flashbench train --config {path}")
    check_keys(path, values, Study.__struct_fields__)
    try:
        values = read_file_values(values, OPTIONS, lists=SPANNED)
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
    """Turn "Expected `int`, got `str` - at `$.seq_lens[0]`": "seq_lens[0]: expected `int`, got `str`"."""
    match = re.fullmatch(r"(.*) - at `\$\.(.*)`", text)
    if match is None:
        return mid_sentence(text)
    rule, place = match.groups()
    known = get_args(Kind) if place == "kind" else ()
    return f"{place}: {mid_sentence(rule)}" + (f"; known: {', '.join(known)}" if known else "")


def _check_points(study: Study) -> None:
    """Raise ConfigError, before anything runs, for a point named twice or an impossible problem."""
    for field in SPANNED:
        values = getattr(study, field)
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{field} names {value} twice")
    points = study.points()
    if len(set(points)) < len(points):  # everything else differs by its name
        raise ConfigError("windows names two that are the same under a causal mask, whose right side is 0")
