"""Kinds of problem in words, without what all of a page's kinds have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flashbench.report.layout import GroupKey, problem_line


def caption_words(keys: Sequence[GroupKey]) -> dict[GroupKey, str]:
    """What tells each kind from the others; all of its words where there is but one."""
    common = set(_common(keys))
    return {key: capital(", ".join(word for word in _words(key) if word not in common)) for key in keys}


def common_words(keys: Sequence[GroupKey]) -> str:
    """`All: head_dim 64, batch 1.`; empty where there is but one kind, or nothing in common."""
    common = _common(keys)
    return f"All: {', '.join(common)}." if common else ""


def capital(text: str) -> str:
    """The text with a capital at its beginning, the rest as it is."""
    return text[:1].upper() + text[1:]


def _common(keys: Sequence[GroupKey]) -> list[str]:
    if len(keys) < 2:
        return []
    shared: set[str] = set.intersection(*(set(_words(key)) for key in keys))
    return [word for word in _words(keys[0]) if word in shared]


def _words(key: GroupKey) -> Iterable[str]:
    return problem_line(key).split(", ")
