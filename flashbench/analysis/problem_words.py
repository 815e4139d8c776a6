"""A problem in words: what of it is optional, and how long it is."""

from __future__ import annotations

from flashbench.features import FEATURES
from flashbench.problem import AttentionProblem


def feature_words(problem: AttentionProblem, *, unit: str = "") -> list[str]:
    """`["window 256", "ALiBi"]`, no commas within; empty where nothing optional is on.

    unit: what stands after lengths of sequences, where they are not rows.
    """
    return [feature.words(problem, unit) for name, feature in FEATURES.items() if name in problem.features]


def length_word(problem: AttentionProblem) -> str:
    """`4096`, or `128 x 4096` where queries and keys differ in number."""
    if problem.seqlen_q == problem.seqlen_k:
        return str(problem.seqlen_q)
    return f"{problem.seqlen_q} x {problem.seqlen_k}"
