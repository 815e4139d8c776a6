"""Readers of the words after an option. Each error names the option, the rule and the value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from flashbench.errors import ConfigError
from flashbench.system.sysfs import core_numbers

Value = TypeVar("Value")
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}")
_SHARE = re.compile(rf"({_NUMBER.pattern})(%?)")
_DURATION = re.compile(rf"({_NUMBER.pattern})\s*([smh]?)")
_WHOLE = re.compile(r"(\d{1,12})([kK]?)|(\d{1,9})[mM]")
_LINK = re.compile(rf"({_NUMBER.pattern})\s*([kKMGT]?)(i?)(B|b|bit)/s")
_SHORT_TIME = re.compile(rf"({_NUMBER.pattern})\s*(us|ms|s|)")


def parse_whole(option: str, text: str, *, also: str = "") -> int:
    """A whole number from 1 up; `4k` is 4096, and `1M` 1024 of that.

    >>> parse_whole("--seq-lens", "4k")
    4096
    """
    number = _rows(text.strip())
    if number is None or number < 1:
        rule = f"{also}whole numbers from 1 up, such as 64 or 4k (4096)"
        raise ConfigError(f"{option} takes {rule}, not {text.strip()!r}")
    return number


def parse_seed(option: str, text: str) -> int:
    """A whole number from 0 up."""
    if not text.strip().isdecimal() or len(text) > 18:
        raise ConfigError(f"{option} takes a whole number from 0 up, not {text!r}")
    return int(text)


def parse_cpus(option: str, text: str) -> list[int]:
    """Numbers of CPUs, as Linux writes them.

    >>> parse_cpus("--cpus", "0-3,8")
    [0, 1, 2, 3, 8]
    """
    try:
        return core_numbers(text)
    except ValueError:
        raise ConfigError(
            f"{option} takes numbers of CPUs and ranges of them, such as 0-7 or 0,2,4, not {text!r}"
        ) from None


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
    """A comma list of whole numbers.

    >>> parse_wholes("--seq-lens", "128,512,4k")
    [128, 512, 4096]
    """
    return [parse_whole(option, part) for part in text.split(",")]


def parse_block_sizes(option: str, text: str) -> list[int | str]:
    """A comma list of whole numbers and `auto`."""
    return [
        "auto" if part.strip().lower() == "auto" else parse_whole(option, part, also="auto or ")
        for part in text.split(",")
    ]


def parse_choices(option: str, text: str, known: Mapping[str, Value], *, many: bool = True) -> list[Value]:
    """The meanings of a comma list of known words, or of one word; case does not matter.

    >>> parse_choices("--dtype", "Float32", {"float32": 4, "float64": 8})
    [4]
    """
    chosen = []
    for part in text.split(",") if many else [text]:
        word = part.strip()
        if word.lower() not in known:
            raise ConfigError(f"{option} takes {_either(known)}, not {word!r}")
        chosen.append(known[word.lower()])
    return chosen


def parse_share(option: str, text: str) -> float:
    """A share such as `5%` or `0.05`, from 0 up; above 1 only with the percent sign.

    >>> parse_share("--fail-over", "5%") == parse_share("--fail-over", "0.05") == 0.05
    True
    """
    share = _share(text.strip())
    if share is None or (share > 1 and not text.strip().endswith("%")):
        raise ConfigError(f"{option} takes a share such as 5% or 0.05, not {text!r}")
    return share


def parse_link(option: str, text: str) -> float:
    """Bytes a second, from bytes or from bits (a small b). K to T are powers of 1000, Ki to Ti of 1024.

    >>> parse_link("--link", "25GB/s"), parse_link("--link", "100Gb/s"), parse_link("--link", "1KiB/s")
    (25000000000.0, 12500000000.0, 1024.0)
    """
    match = _LINK.fullmatch(text.strip())
    rate = 0.0
    if match is not None:
        number, prefix, binary, unit = match.groups()
        rate = float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " ")
        rate /= 8 if unit != "B" else 1
    if rate <= 0:
        raise ConfigError(
            f"{option} takes bytes or bits a second, such as 25GB/s, 12.5GiB/s or 100Gb/s, not {text!r}"
        )
    return rate


def parse_short_time(option: str, text: str) -> float:
    """Seconds from `300us`, `0.5ms` or `2s`; 0 is allowed.

    >>> parse_short_time("--latency", "0.5ms"), parse_short_time("--latency", "0")
    (0.0005, 0.0)
    """
    match = _SHORT_TIME.fullmatch(text.strip())
    if match is None or (not match[2] and float(match[1])):
        raise ConfigError(f"{option} takes a time with its unit, such as 300us, 0.5ms or 2s, not {text!r}")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 0.0}[match[2]]


def or_none(read: Callable[[str, str], Value]) -> Callable[[str, str], Value | None]:
    """A reader that also takes `none`, with which an option turns off what a study file turns on."""
    return lambda option, text: None if text.strip().lower() == "none" else read(option, text)


def parse_above_zero(option: str, text: str) -> float:
    """A number above 0."""
    match = _NUMBER.fullmatch(text.strip())
    number = 0.0 if match is None else float(match[0])
    if number <= 0:
        raise ConfigError(f"{option} takes a number above 0, such as 50 or 0.5, not {text.strip()!r}")
    return number


def parse_window(option: str, text: str) -> int | str | list[int | str]:
    """`none`, keys on both sides, or keys on the left and on the right.

    >>> parse_window("--window", "4k"), parse_window("--window", "128,0"), parse_window("--window", "none")
    (4096, [128, 0], 'none')
    """
    sides = [_window_side(part.strip()) for part in text.split(",")]
    if None in sides or len(sides) > 2:
        raise ConfigError(
            f"{option} takes none, a whole number from 0 up, such as 256 or 4k (4096), or two of these for "
            f"left and right, not {text.strip()!r}"
        )
    known: list[int | str] = [side for side in sides if side is not None]
    return known if len(known) == 2 else known[0]


def _window_side(word: str) -> int | str | None:
    return "none" if word.lower() == "none" else _rows(word)


def parse_lengths(option: str, text: str) -> list[int | float]:
    """A comma list of rows; all are shares if one has a point or a percent sign.

    >>> parse_lengths("--key-lengths", "100,1k"), parse_lengths("--key-lengths", "0.25,50%,1")
    ([100, 1024], [0.25, 0.5, 1.0])
    """
    words = [part.strip() for part in text.split(",")]
    read = _share if any("." in word or "%" in word for word in words) else _rows
    lengths = [read(word) for word in words]
    if None in lengths:
        raise ConfigError(
            f"{option} takes whole numbers such as 100 or 4k (4096), or shares such as 0.5 or 50%, "
            f"not {text!r}"
        )
    return [length for length in lengths if length is not None]


def _rows(word: str) -> int | None:
    match = _WHOLE.fullmatch(word)
    if match is None:
        return None
    return int(match[3]) * 1024**2 if match[3] else int(match[1]) * (1024 if match[2] else 1)


def _share(word: str) -> float | None:
    match = _SHARE.fullmatch(word)
    return None if match is None else float(match[1]) / (100 if match[2] else 1)


def _either(words: Mapping[str, object]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
