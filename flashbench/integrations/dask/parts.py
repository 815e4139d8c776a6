"""What a chunk of queries sees of a chunk of keys, as calls of attention that know nothing of the chunks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from flashbench.problem import AttentionProblem, Window


@dataclass(frozen=True)
class Part:
    """Rows of a pair of chunks that see each other: what to cut from the chunks, and the mask in there."""

    sequences: slice
    queries: slice
    keys: slice
    diagonal: int  # the own key of the first of these queries, counted from the first of these keys
    window: Window  # of attention with causal_alignment="top-left" on these queries and keys

    @property
    def of_queries(self) -> tuple[slice, slice, slice]:
        """The index of these queries in a chunk (batch, num_heads, seqlen_q, ...)."""
        return self.sequences, slice(None), self.queries

    @property
    def of_keys(self) -> tuple[slice, slice, slice]:
        """The index of these keys in a chunk (batch, num_kv_heads, seqlen_k, ...)."""
        return self.sequences, slice(None), self.keys


def parts_of(problem: AttentionProblem, sequences: range, queries: range, keys: range) -> tuple[Part, ...]:
    """The parts of a pair of chunks, which have these places in the problem. None: it is hidden whole.

    Sequences of one length share a part, because "bottom-right" puts each length's diagonal elsewhere.
    """
    lengths = [problem.seqlen_k] * len(sequences)
    if problem.key_lengths is not None:
        lengths = [problem.key_lengths[b] for b in sequences]
    found, first = [], 0
    for length, group in itertools.groupby(lengths):
        end = first + len(list(group))
        if (part := _part(problem, slice(first, end), length, queries, keys)) is not None:
            found.append(part)
        first = end
    return tuple(found)


def _part(
    problem: AttentionProblem, sequences: slice, length: int, queries: range, keys: range
) -> Part | None:
    """The part of sequences with `length` keys, or None.

    A window's limits must not be negative. They are not, once the first queries and keys that it hides whole
    are cut off: then the first query sees the first key.
    """
    left, right = problem.window
    num_queries, num_keys = len(queries), min(keys.stop, length) - keys.start
    diagonal = queries.start + problem.diagonal_of(problem.seqlen_q, length) - keys.start
    first_query, end_query, first_key, end_key = 0, num_queries, 0, num_keys
    if left is not None:
        first_key = max(0, diagonal - left)
        end_query = min(num_queries, num_keys - diagonal + left)
    if right is not None:
        first_query = max(0, -diagonal - right)
        end_key = min(num_keys, num_queries + diagonal + right)
    if first_query >= end_query or first_key >= end_key:
        return None
    diagonal += first_query - first_key
    window = None if left is None else left - diagonal, None if right is None else right + diagonal
    return Part(sequences, slice(first_query, end_query), slice(first_key, end_key), diagonal, window)


def spread(chunk: int) -> int:
    """Sort key of chunks: neighbours in this order are far apart, and each part of it is spread over all.

    It is the number with its bits in reverse (van der Corput's sequence).

    >>> sorted(range(8), key=spread)
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    return int(f"{chunk:064b}"[::-1], 2)
