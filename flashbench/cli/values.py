"""What the words after an option mean: lists, lengths, choices; each error names option, rule and value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from flashbench.errors import ConfigError

Value = TypeVar("Value")
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}")
_SHARE = re.compile(rf"({_NUMBER.pattern})(%?)")
_DURATION = re.compile(rf"({_NUMBER.pattern})\s*([smh]?)")
_WHOLE = re.compile(r"(\d{1,12})([kK]?)")


def parse_whole(option: str, text: str, *, also: str = "") -> int:
    """A whole number from 1 up; `4k` is 4096.

    >>> parse_whole("--seq-lens", "4k")
    4096
    """
    match = _WHOLE.fullmatch(text.strip())
    number = 0 if match is None else int(match[1]) * (1024 if match[2] else 1)
    if number < 1:
        rule = f"{also}whole numbers from 1 up, such as 64 or 4k (4096)"
        raise ConfigError(f"{option} takes {rule}, not {text.strip()!r}")
    return number


def parse_seed(option: str, text: str) -> int:
    """A whole number from 0 up."""
    if not text.strip().isdecimal() or len(text) > 18:
        raise ConfigError(f"{option} takes a whole number from 0 up, not {text!r}")
    return int(text)


def parse_seconds(option: str, text: str) -> float:
    """A number of seconds above 0."""
    match = _NUMBER.fullmatch(text.strip())
    seconds = 0.0 if match is None else float(match[0])
    if seconds <= 0:
        raise ConfigError(f"{option} takes seconds above 0, such as 600 or 0.5, not {text!r}")
    return seconds


def parse_duration(option: str, text: str) -> float:
    """Seconds from `90`, `90s`, `1.5m` or `1h`.

    >>> parse_duration("--budget", "1.5m")
    90.0
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = 0.0 if match is None else float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    if seconds <= 0:
        raise ConfigError(f"{option} takes a time above 0, such as 60s, 5m or 1h, not {text!r}")
    return seconds


def parse_wholes(option: str, text: str) -> list[int]:
    """A comma list of them.

    >>> parse_wholes("--seq-lens", "128,512,4k")
    [128, 512, 4096]
    """
    return [parse_whole(option, part) for part in text.split(",")]


def parse_block_sizes(option: str, text: str) -> list[int | str]:
    """A comma list of whole numbers and `auto`."""
    return [
        "auto" if part.strip() == "auto" else parse_whole(option, part, also="auto or ")
        for part in text.split(",")
    ]


def parse_choices(option: str, text: str, known: Mapping[str, Value], *, many: bool = True) -> list[Value]:
    """A comma list of known words, or one word, as what they stand for."""
    chosen = []
    for part in text.split(",") if many else [text]:
        word = part.strip()
        if word not in known:
            raise ConfigError(f"{option} takes {_either(known)}, not {word!r}")
        chosen.append(known[word])
    return chosen


def parse_share(option: str, text: str) -> float:
    """A share such as `5%` or `0.05`, from 0 up; above 1 only with the percent sign.

    >>> parse_share("--fail-over", "5%") == parse_share("--fail-over", "0.05") == 0.05
    True
    """
    match = _SHARE.fullmatch(text.strip())
    share = -1.0 if match is None else float(match[1]) / (100 if match[2] else 1)
    if share < 0 or (share > 1 and match is not None and not match[2]):
        raise ConfigError(f"{option} takes a share such as 5% or 0.05, not {text!r}")
    return share


def _either(words: Mapping[str, object]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
