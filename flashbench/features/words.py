"""Words and names of the features that take more than a line: windows, masks, dropout, lengths.

Words are for readers of a table; a name is that of a benchmark outside this project, and must never change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashbench.problem import AttentionProblem

# Of more lengths than this, words give the shortest and the longest only.
MOST_IN_WORDS = 6
# And a name their number, shortest, longest and a digest.
MOST_IN_NAME = 8


def window_word(problem: AttentionProblem) -> str:
    """`256` where that is both sides, or the left one of a causal mask, else `128 left 0 right`; `none`.

    >>> from flashbench.problem import AttentionProblem
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


def window_name(problem: AttentionProblem) -> Iterator[str]:
    """`window:256`, `window:128-0`, `window:none-7`."""
    sides = (problem.window_left, problem.window_right)
    left, right = ("none" if keys is None else keys for keys in sides)
    yield f"window:{left}" if problem.causal or left == right else f"window:{left}-{right}"


def mask_word(problem: AttentionProblem) -> str:
    """`bool mask of qk`, `block mask of bqk in 64`, or `in 64 x 128`."""
    words = f"{problem.mask} mask of {problem.mask_axes or 'one value'}"
    sizes = dict.fromkeys((problem.mask_block_q, problem.mask_block_k))  # equal ones once
    return f"{words} in {' x '.join(map(str, sizes))}" if problem.mask == "block" else words


def mask_name(problem: AttentionProblem) -> Iterator[str]:
    """`mask:bool-qk`, and the blocks of a block mask."""
    yield f"mask:{problem.mask}" + (f"-{problem.mask_axes}" if problem.mask_axes else "")
    if problem.mask == "block":
        yield f"mask_block:{mask_block(problem)}"


def mask_axes(problem: AttentionProblem) -> str | None:
    """Along what the mask varies."""
    return problem.mask_axes if problem.mask is not None else None


def mask_block(problem: AttentionProblem) -> str | None:
    """`64x64`, of a block mask."""
    return f"{problem.mask_block_q}x{problem.mask_block_k}" if problem.mask == "block" else None


def dropout_word(problem: AttentionProblem) -> str:
    """`dropout 0.1`, `dropout 0.1 seed 7`."""
    seed = f" seed {problem.dropout_seed}" if problem.dropout_seed else ""
    return f"dropout {problem.dropout:g}{seed}"


def dropout_name(problem: AttentionProblem) -> Iterator[str]:
    """`dropout:0.1`, and a seed that is not 0."""
    yield f"dropout:{problem.dropout!r}"
    if problem.dropout_seed:
        yield f"dropout_seed:{problem.dropout_seed}"


def key_lengths_word(problem: AttentionProblem, unit: str) -> str:
    """`key lengths 64/128`."""
    return f"key lengths {_length_words(problem.key_lengths or ())}{unit}"


def varlen_word(problem: AttentionProblem, unit: str) -> str:
    """`varlen 64/128`, or `varlen 16/32 over 64/128` where queries and keys differ in number."""
    queries, keys = (_length_words(lengths or ()) for lengths in (problem.query_lengths, problem.key_lengths))
    return f"varlen {queries}{unit}" if queries == keys else f"varlen {queries} over {keys}{unit}"


def key_lengths_name(problem: AttentionProblem) -> Iterator[str]:
    """`key_lengths:64+128`."""
    yield f"key_lengths:{_length_names(problem.key_lengths or ())}"


def varlen_name(problem: AttentionProblem) -> Iterator[str]:
    """`varlen:64+128`, and the keys where they differ from the queries in number."""
    yield f"varlen:{_length_names(problem.query_lengths or ())}"
    if problem.key_lengths != problem.query_lengths:
        yield from key_lengths_name(problem)


def query_lengths(problem: AttentionProblem) -> str | None:
    """`64 128`, one for each sequence."""
    return _listed(problem.query_lengths)


def key_lengths(problem: AttentionProblem) -> str | None:
    """The same of the keys."""
    return _listed(problem.key_lengths)


def _length_words(lengths: Sequence[int]) -> str:
    """`64/128/512`, each once; of many the shortest and the longest."""
    several = list(dict.fromkeys(lengths))
    if len(several) > MOST_IN_WORDS:
        return f"{min(several)} to {max(several)}"
    return "/".join(map(str, several))


def _length_names(lengths: Sequence[int]) -> str:
    """`64+128+512`; many in short, for a name must not be too long."""
    if len(set(lengths)) == 1:
        return f"{lengths[0]}"
    listed = "+".join(map(str, lengths))
    if len(lengths) <= MOST_IN_NAME:
        return listed
    import hashlib  # inside: `--help` reads the table, and needs none

    digest = hashlib.sha256(listed.encode()).hexdigest()[:8]
    return f"{len(lengths)}x{min(lengths)}-{max(lengths)}-{digest}"


def _listed(lengths: Sequence[int] | None) -> str | None:
    return None if lengths is None else " ".join(map(str, lengths))
