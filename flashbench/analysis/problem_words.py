"""A problem in words: what of it is optional, and how long it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flashbench.analysis.blocks import blocks_word
from flashbench.problem import AttentionProblem

# More lengths than this are told by the shortest and the longest.
MOST_LENGTHS = 6


def feature_words(problem: AttentionProblem, *, unit: str = "") -> list[str]:
    """`["window 256", "softcap 50"]`, no commas within; empty where nothing optional is on.

    unit: what stands after lengths of sequences, where they are not rows.
    """
    return list(_words(problem, unit))


def _words(problem: AttentionProblem, unit: str) -> Iterator[str]:
    if "window" in problem.features:
        yield f"window {window_word(problem)}"
    if problem.softcap is not None:
        yield f"softcap {problem.softcap:g}"
    if problem.alibi:
        yield "ALiBi"
    if problem.sinks:
        yield "sinks"
    if problem.mask is not None:
        blocks = f" in {_block_word(problem)}" if problem.mask == "block" else ""
        yield f"{problem.mask} mask of {problem.mask_axes or 'one value'}{blocks}"
    if problem.dropout:
        seed = f" seed {problem.dropout_seed}" if problem.dropout_seed else ""
        yield f"dropout {problem.dropout:g}{seed}"
    if problem.query_lengths is not None and problem.key_lengths is not None:
        queries, keys = (_lengths_word(lengths) for lengths in (problem.query_lengths, problem.key_lengths))
        yield f"varlen {queries}{unit}" if queries == keys else f"varlen {queries} over {keys}{unit}"
    elif problem.key_lengths is not None:
        yield f"key lengths {_lengths_word(problem.key_lengths)}{unit}"
    if problem.page_size is not None:
        yield f"pages of {problem.page_size}"


def window_word(problem: AttentionProblem) -> str:
    """`256` where that is both sides, or the left one of a causal mask, else `128 left 0 right`; `none`.

    >>> window_word(AttentionProblem.of(1024, window=(256, 256)))
    '256'
    >>> window_word(AttentionProblem.of(1024, window=(128, 0)))
    '128 left 0 right'
    """
    # As asked for: `problem.window` ends at the last key there is, and so differs from length to length.
    left, right = problem.window_left, problem.window_right
    if left is not None and (problem.causal or left == right):
        return str(left)
    sides = ((left, "left"), (None if problem.causal else right, "right"))
    return " ".join(f"{keys} {side}" for keys, side in sides if keys is not None) or "none"


def _block_word(problem: AttentionProblem) -> str:
    return blocks_word(problem.mask_block_q, problem.mask_block_k)


def length_word(problem: AttentionProblem) -> str:
    """`4096`, or `128 x 4096` where queries and keys differ in number."""
    if problem.seqlen_q == problem.seqlen_k:
        return str(problem.seqlen_q)
    return f"{problem.seqlen_q} x {problem.seqlen_k}"


def _lengths_word(lengths: Sequence[int]) -> str:
    """`64/128/512`, each once; of many the shortest and the longest."""
    several = list(dict.fromkeys(lengths))
    if len(several) > MOST_LENGTHS:
        return f"{min(several)} to {max(several)}"
    return "/".join(map(str, several))
