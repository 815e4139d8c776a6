"""A problem at another length."""

from __future__ import annotations

import msgspec

from flashbench.problem import AttentionProblem


def with_length(problem: AttentionProblem, seqlen_q: int, seqlen_k: int) -> AttentionProblem:
    """The same problem at other lengths. Lengths of single sequences keep their share of the longest."""
    query_lengths, key_lengths = problem.query_lengths, problem.key_lengths
    if query_lengths is not None:
        query_lengths = _in_proportion(query_lengths, seqlen_q, problem.seqlen_q)
    if key_lengths is not None:
        key_lengths = _in_proportion(key_lengths, seqlen_k, problem.seqlen_k)
    return msgspec.structs.replace(
        problem,
        seqlen_q=seqlen_q,
        seqlen_k=seqlen_k,
        query_lengths=query_lengths,
        key_lengths=key_lengths,
    )


def _in_proportion(lengths: tuple[int, ...], longest: int, of: int) -> tuple[int, ...]:
    """Each length as a share of `of`, times `longest`. Computed once for each different length."""
    proportional = {length: round(length * longest / of) for length in set(lengths)}
    return tuple(map(proportional.__getitem__, lengths))
