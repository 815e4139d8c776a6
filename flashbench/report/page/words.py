"""Words of the page: kinds of problem without what all of them share, lists, and ranges."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from flashbench.analysis.group_words import problem_words
from flashbench.analysis.groups import GroupKey
from flashbench.report.charts.series import Source

Key = TypeVar("Key", bound=Hashable)


def caption_words(keys: Sequence[GroupKey]) -> dict[GroupKey, str]:
    """The words in which each kind differs from the others; all its words if it is the only one."""
    words = distinct_words({key: problem_words(key) for key in keys})
    return {key: capital(word) for key, word in words.items()}


def common_words(keys: Sequence[GroupKey]) -> str:
    """`All: head_dim 64, batch 1.`; empty for a single kind, or if no word is shared."""
    return shared_words([problem_words(key) for key in keys])


def distinct_words(words: Mapping[Key, Sequence[str]]) -> dict[Key, str]:
    """The words of each that not all have. All its words if none is left."""
    common = _common(list(words.values()))
    return {key: ", ".join([word for word in own if word not in common] or own) for key, own in words.items()}


def shared_words(words: Sequence[Sequence[str]]) -> str:
    """The words that all have, as a sentence; empty for a single one, or if no word is shared."""
    common = _common(words)
    return f"All: {', '.join(common)}." if common else ""


def capital(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def listed(names: Iterable[str]) -> str:
    """`sdpa, eager and flash`: each once."""
    once = list(dict.fromkeys(names))
    return " and ".join(filter(None, [", ".join(once[:-1]), *once[-1:]]))


def span_word(values: Sequence[float], written: Callable[[float], str]) -> str:
    """`0.8x to 1.2x`; one of them if both are written alike, and nothing without a value."""
    ends = dict.fromkeys(written(value) for value in (min(values), max(values))) if values else {}
    return " to ".join(ends)


def named(source: Source, files: int) -> str:
    """The file, behind a caption, if there are several."""
    return f", {source.name}" if files > 1 else ""


def _common(words: Sequence[Sequence[str]]) -> list[str]:
    if len(words) < 2:
        return []
    shared = set.intersection(*map(set, words))
    return [word for word in words[0] if word in shared]
