"""Kinds of problem in words, without the words that all kinds of a page share."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.group_words import problem_words
from flashbench.analysis.groups import GroupKey


def caption_words(keys: Sequence[GroupKey]) -> dict[GroupKey, str]:
    """The words in which each kind differs from the others; all its words if it is the only one."""
    common = set(_common(keys))
    return {
        key: capital(", ".join(word for word in problem_words(key) if word not in common)) for key in keys
    }


def common_words(keys: Sequence[GroupKey]) -> str:
    """`All: head_dim 64, batch 1.`; empty for a single kind, or if no word is shared."""
    common = _common(keys)
    return f"All: {', '.join(common)}." if common else ""


def capital(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def _common(keys: Sequence[GroupKey]) -> list[str]:
    if len(keys) < 2:
        return []
    shared: set[str] = set.intersection(*(set(problem_words(key)) for key in keys))
    return [word for word in problem_words(keys[0]) if word in shared]
