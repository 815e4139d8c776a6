"""The batch data that kernels get, for few sequences and for many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flashbench.engines import launch
from flashbench.engines.launch import sequence_table
from flashbench.problem import AttentionProblem

LENGTHS = (5, 0, 16, 7, 1, 9)


@pytest.mark.parametrize("alignment", ["bottom-right", "top-left"])
@pytest.mark.parametrize(
    "lengths",
    [
        {},
        {"key_lengths": LENGTHS},
        {"key_lengths": LENGTHS, "query_lengths": LENGTHS[::-1]},
    ],
    ids=["batch", "key lengths", "packed"],
)
def test_a_table_of_many_sequences_is_the_one_that_a_loop_makes(
    lengths: dict[str, Any], alignment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = AttentionProblem.of(
        20, seqlen_k=16, batch=len(LENGTHS), causal=True, causal_alignment=alignment, **lengths
    )
    monkeypatch.setattr(launch, "FEW_SEQUENCES", 0)
    found = sequence_table(problem, lambda seqlen_q, seqlen_k: -(-seqlen_q // 4) + seqlen_k)
    before = 0
    for row, (index, first_query, first_key, seqlen_q, seqlen_k) in zip(
        found, problem.sequences(), strict=True
    ):
        diagonal = seqlen_k - seqlen_q if alignment == "bottom-right" else 0
        assert row.tolist() == [index, first_query, first_key, seqlen_q, seqlen_k, diagonal, before]
        before += -(-seqlen_q // 4) + seqlen_k
    assert np.array_equal(found, _by_loop(problem, monkeypatch))


def _by_loop(problem: AttentionProblem, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(launch, "FEW_SEQUENCES", problem.batch)
    return sequence_table(problem, lambda seqlen_q, seqlen_k: -(-seqlen_q // 4) + seqlen_k)
