"""Decoding steps: a few queries read all of k and v, so memory limits their speed."""

from __future__ import annotations

from flashbench.problem import MOST_DECODING_QUERIES, AttentionProblem


def reads_memory(problem: AttentionProblem) -> bool:
    """Whether bytes a second describe a forward better than operations a second."""
    return problem.seqlen_q <= MOST_DECODING_QUERIES


def is_decoding(problem: AttentionProblem) -> bool:
    """Whether these are the last few queries of longer sequences."""
    return (
        problem.seqlen_q <= MOST_DECODING_QUERIES
        and problem.seqlen_q < problem.seqlen_k
        and not problem.packed
    )


def kv_bytes_read(problem: AttentionProblem) -> int:
    """Bytes of the rows of k and v that at least one query sees.

    This is `problem.kv_bytes`, less the rows that a window or lengths hide from every query.
    """
    left, right = problem.window
    rows = 0
    for (seqlen_q, seqlen_k), count in problem.length_counts.items():
        diagonal = problem.diagonal_of(seqlen_q, seqlen_k)
        first = 0 if left is None else max(0, diagonal - left)
        end = seqlen_k if right is None else min(seqlen_k, seqlen_q + diagonal + right)
        rows += count * max(0, end - first) if seqlen_q else 0
    return rows * problem.num_kv_heads * (problem.head_dim + problem.head_dim_v) * problem.itemsize
