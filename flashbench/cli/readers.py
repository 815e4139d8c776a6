"""How the value of each option of a study is read, on a command line and in a study file alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from flashbench.cli.say import say
from flashbench.cli.values import (
    or_none,
    parse_above_zero,
    parse_block_sizes,
    parse_choices,
    parse_cpus,
    parse_duration,
    parse_lengths,
    parse_seconds,
    parse_seed,
    parse_share,
    parse_whole,
    parse_wholes,
    parse_window,
)
from flashbench.dtypes import NARROWEST_FIRST
from flashbench.errors import ConfigError
from flashbench.features import OPTIONS as FEATURES
from flashbench.features.entry import Value
from flashbench.problem import CausalAlignment, MaskKind
from flashbench.report.units import parse_bytes
from flashbench.studies.engine_list import PROBE_TIMEOUT_S, resolve_engines

# Numbers in a study file end here: no machine has as many bytes, and no array's shape holds larger numbers.
LARGEST = 10**18
# Takes the name that an error gives, and a value: a text, several texts, or a flag's.
Reader = Callable[[str, Any], Any]
# Parameter of a command -> (the field of the study, how its value is read).
Options = Mapping[str, tuple[str, Reader]]


def read_thread_counts(option: str, words: str | list[str]) -> int | list[int]:
    """One number, or the numbers of a scaling curve.

    >>> read_thread_counts("--threads", "2"), read_thread_counts("--threads", ["1,2", "4"])
    (2, [1, 2, 4])
    """
    counts: list[int] = many(parse_wholes)(option, words)
    return counts if len(counts) > 1 else counts[0]


def as_given(option: str, value: Any) -> Any:
    """The value of a flag, which needs no reading."""
    return value


def many(read: Callable[[str, str], list[Any]]) -> Reader:
    """Let a reader of comma lists take several of them: `-n 512,1k` and `-n 512 -n 1k` are the same.

    >>> many(parse_wholes)("--seq-lens", ["512,1k", "64"]), many(parse_wholes)("--seq-lens", "64")
    ([512, 1024, 64], [64])
    """
    return lambda option, words: [
        value for word in ([words] if isinstance(words, str) else words) for value in read(option, word)
    ]


def read_causal(option: str, text: str) -> list[bool]:
    """no, yes, or both of them."""
    known = {"no": [False], "yes": [True], "both": [False, True]}
    return parse_choices(option, text, known, many=False)[0]


def read_dtypes(option: str, text: str) -> list[str]:
    """Names of the table of dtypes."""
    return parse_choices(option, text, {word: word for word in NARROWEST_FIRST})


def read_passes(option: str, text: str) -> list[str]:
    """fwd, bwd."""
    return parse_choices(option, text, {"fwd": "fwd", "bwd": "bwd"})


def read_directions(option: str, text: str) -> list[str]:
    """fwd, bwd, and fwd+bwd for both in one call, which results files call fwd_bwd."""
    words = text.replace("fwd_bwd", "fwd+bwd")
    return parse_choices(option, words, {"fwd": "fwd", "bwd": "bwd", "fwd+bwd": "fwd_bwd"})


def read_engines(option: str, text: str) -> list[str]:
    """Names that may be wrong; `all_engines` checks them."""
    return [name.strip() for name in text.split(",")]


def read_paths(option: str, text: str) -> list[str]:
    """Names that may be wrong; the table of paths, which needs Numba, checks them."""
    return [name.strip().lower() for name in text.split(",")]


def all_engines(names: Sequence[str], *, timeout_s: float = PROBE_TIMEOUT_S) -> list[str]:
    """Replace `all` by every engine that is ready in that time, and print a line for each that is not.

    Raises EngineError for an unknown name.
    """
    found, left_out = resolve_engines(list(names), timeout_s=timeout_s)
    for line in left_out:
        say(line)
    return found


def _alignment(option: str, text: str) -> str:
    known: dict[str, str] = {word: word for word in get_args(CausalAlignment)}
    return parse_choices(option, text, known, many=False)[0]


def _mask(option: str, text: str) -> str | None:
    known: dict[str, str | None] = {"none": None} | {word: word for word in get_args(MaskKind)}
    return parse_choices(option, text, known, many=False)[0]


def read_memory_budget(option: str, text: str) -> int:
    """Bytes, from `16GiB` and the like."""
    return parse_bytes(text, name=option)


# The reader of each kind of value in the table of features.
_FEATURE_READERS: Mapping[Value, Reader] = {
    "flag": as_given,
    "text": lambda option, text: text.strip(),
    "mask": _mask,
    "windows": many(lambda option, text: [parse_window(option, text)]),
    "whole": parse_whole,
    "whole or none": or_none(parse_whole),
    "above zero or none": or_none(parse_above_zero),
    "share": parse_share,
    "seed": parse_seed,
    "lengths or none": or_none(parse_lengths),
}

OPTIONS: Options = {
    "seq_lens": ("seq_lens", many(parse_wholes)),
    "seq_len_k": ("seq_len_k", or_none(parse_whole)),
    "decode": ("decode", as_given),
    "queries": ("queries", parse_whole),
    "batch": ("batch", parse_whole),
    "heads": ("heads", many(parse_wholes)),
    "kv_heads": ("kv_heads", parse_whole),
    "head_dim": ("head_dims", many(parse_wholes)),
    "dtype": ("dtypes", many(read_dtypes)),
    "causal": ("causal", read_causal),
    "causal_alignment": ("causal_alignment", _alignment),
    **{name: (option.key, _FEATURE_READERS[option.value]) for name, option in FEATURES.items()},
    "direction": ("directions", many(read_directions)),
    "engine": ("engines", many(read_engines)),
    "block_sizes": ("block_sizes", many(parse_block_sizes)),
    "block_q": ("block_q", parse_whole),
    "block_k": ("block_k", parse_whole),
    "path": ("paths", many(read_paths)),
    "threads": ("threads", read_thread_counts),
    "cpus": ("cpus", or_none(parse_cpus)),
    "repeats": ("repeats", parse_whole),
    "rounds": ("rounds", parse_whole),
    "budget": ("budget_s", parse_duration),
    "cold": ("cold", as_given),
    "seed": ("seed", parse_seed),
    "memory": ("memory", as_given),
    "check": ("check", as_given),
    "memory_budget": ("memory_budget_bytes", read_memory_budget),
    "timeout": ("timeout_s", parse_seconds),
}

# The --threads of commands that measure no scaling curve.
ONE_COUNT: tuple[str, Reader] = ("threads", parse_whole)
# The --direction of commands that run each pass by itself: fwd+bwd is no choice there.
PASSES: tuple[str, Reader] = ("directions", many(read_passes))


def read_params(params: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The values that a command line gives, by field of the study; None and an empty list are "not given"."""
    return {
        field: read(f"--{name.replace('_', '-')}", params[name])
        for name, (field, read) in options.items()
        if params.get(name) not in (None, [], ())
    }


def read_file_values(
    values: Mapping[str, Any], options: Options, *, lists: tuple[str, ...]
) -> dict[str, Any]:
    """The values of a study file. Text is read as an option's; one value of a key in `lists` is made a list.

    >>> words = {"seq_lens": ["512,1k", 64], "causal": "both", "heads": 8, "title": "4k"}
    >>> read_file_values(words, OPTIONS, lists=("seq_lens", "causal", "heads"))
    {'seq_lens': [512, 1024, 64], 'causal': [False, True], 'heads': [8], 'title': '4k'}
    """
    for key, value in values.items():
        _check_size(key, value)
    readers = dict(options.values())
    return {
        key: _file_value(key, value, readers[key], is_list=key in lists) if key in readers else value
        for key, value in values.items()
    }


def _check_size(key: str, value: Any) -> None:
    """Raises ConfigError for a number too large for any array or clock. Other rules refuse infinities."""
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _check_size(key, item)
    elif isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
        raise ConfigError(f"{key} takes numbers up to {LARGEST:.0e}, and one of them is larger")


def _file_value(key: str, value: Any, read: Reader, *, is_list: bool) -> Any:
    if isinstance(value, str):
        return read(key, value)
    if isinstance(value, list):
        found: list[Any] = []
        for item in value:
            words = read(key, item) if isinstance(item, str) else item
            found += words if isinstance(item, str) and isinstance(words, list) else [words]
        return found
    return [value] if is_list else value
