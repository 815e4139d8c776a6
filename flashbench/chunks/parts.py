"""What a chunk of queries sees of a chunk of keys, as calls of attention that know nothing of the chunks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from flashbench.problem import AttentionProblem, Window

Places = tuple[range, ...]  # the rows of each chunk along one axis


@dataclass(frozen=True)
class Part:
    """Rows of a pair of chunks that see each other: what to cut from the chunks, and the mask in there."""

    sequences: slice
    queries: slice
    keys: slice
    diagonal: int  # the own key of the first of these queries, counted from the first of these keys
    window: Window  # of attention with causal_alignment="top-left" on these queries and keys

    @property
    def scores(self) -> int:
        """Visible (query, key) pairs of one head, over these sequences."""
        queries, keys = (side.stop - side.start for side in (self.queries, self.keys))
        sequences: int = self.sequences.stop - self.sequences.start
        return sequences * _scores(queries, keys, self.window)

    @property
    def of_queries(self) -> tuple[slice, slice, slice]:
        """The index of these queries in a chunk (batch, num_heads, seqlen_q, ...)."""
        return self.sequences, slice(None), self.queries

    @property
    def of_keys(self) -> tuple[slice, slice, slice]:
        """The index of these keys in a chunk (batch, num_kv_heads, seqlen_k, ...)."""
        return self.sequences, slice(None), self.keys


def places_of(sizes: Sequence[int]) -> Places:
    """The rows of chunks with these sizes.

    >>> places_of((3, 2))
    (range(0, 3), range(3, 5))
    """
    ends = itertools.accumulate(sizes)
    return tuple(range(end - size, end) for end, size in zip(ends, sizes, strict=True))


def steps_of(
    problem: AttentionProblem, sequences: range, queries: Places, keys: Places
) -> Iterator[tuple[int, list[tuple[int, tuple[Part, ...]]]]]:
    """(chunk of keys, [(chunk of queries, what it sees)]): pairs that are not hidden, in their order.

    A step is one chunk of keys with all chunks of queries that see it, in the order of `spread`, in which
    workers share them out. So a chunk of keys is wanted for a short time, and every worker wants it then.
    """
    order = sorted(range(len(queries)), key=spread)
    for j, of_j in enumerate(keys):
        seen = ((i, parts_of(problem, sequences, queries[i], of_j)) for i in order)
        if pairs := [(i, parts) for i, parts in seen if parts]:
            yield j, pairs


def owners_of(chunks: Collection[int], workers: int) -> dict[int, int]:
    """The number of the worker of each of these chunks of queries: neighbours by `spread` share one.

    >>> owners_of(range(4), 2)
    {0: 0, 2: 0, 1: 1, 3: 1}
    """
    order = sorted(chunks, key=spread)
    return {i: place * workers // len(order) for place, i in enumerate(order)}


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


@functools.lru_cache(maxsize=1024)  # most pairs of chunks are alike
def _scores(queries: int, keys: int, window: Window) -> int:
    alike = AttentionProblem.of(queries, seqlen_k=keys, causal_alignment="top-left", window=window)
    return alike.visible_pairs
