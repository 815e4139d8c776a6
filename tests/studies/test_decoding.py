"""The bytes that a decoding step reads, and the rates that a run records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import fake_engines
from hypothesis import given
from hypothesis import strategies as st

from flashbench.analysis.decoding import is_decoding, kv_bytes_read, reads_memory
from flashbench.problem import AttentionProblem
from flashbench.results.record import Results
from flashbench.studies import limits
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.runner import run
from flashbench.studies.study import Study


def visible_rows(problem: AttentionProblem) -> int:
    """Rows of k that some query sees, by a loop over all pairs."""
    left, right = problem.window
    rows = 0
    for sequence in problem.sequences():
        diagonal = problem.diagonal_of(sequence.seqlen_q, sequence.seqlen_k)
        for key in range(sequence.seqlen_k):
            rows += any(
                (left is None or key >= query + diagonal - left)
                and (right is None or key <= query + diagonal + right)
                for query in range(sequence.seqlen_q)
            )
    return rows


@given(
    seqlen_q=st.integers(1, 16),
    seqlen_k=st.integers(1, 40),
    lengths=st.one_of(st.none(), st.lists(st.floats(0, 1), min_size=1, max_size=3)),
    window=st.tuples(*[st.one_of(st.none(), st.integers(0, 20))] * 2),
    causal=st.booleans(),
    alignment=st.sampled_from(["bottom-right", "top-left"]),
)
def test_bytes_are_those_of_the_rows_that_a_query_sees(
    seqlen_q: int, seqlen_k: int, lengths: list[float] | None, window: Any, causal: bool, alignment: Any
) -> None:
    keys = None if lengths is None else tuple(round(share * seqlen_k) for share in lengths)
    problem = AttentionProblem.of(
        seqlen_q,
        seqlen_k=seqlen_k,
        batch=1 if keys is None else len(keys),
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        head_dim_v=3,
        dtype="float32",
        causal=causal,
        causal_alignment=alignment,
        window=window,
        key_lengths=keys,
    )
    assert kv_bytes_read(problem) == visible_rows(problem) * 2 * (8 + 3) * 4


def test_a_plain_step_reads_all_of_k_and_v() -> None:
    problem = AttentionProblem.of(1, seqlen_k=100, batch=3, num_heads=8, num_kv_heads=2)
    assert kv_bytes_read(problem) == problem.kv_bytes


def test_a_step_is_of_few_queries_and_more_keys() -> None:
    assert is_decoding(AttentionProblem.of(1, seqlen_k=2))
    assert is_decoding(AttentionProblem.of(16, seqlen_k=64))
    assert not is_decoding(AttentionProblem.of(17, seqlen_k=64))
    assert not is_decoding(AttentionProblem.of(16))
    assert reads_memory(AttentionProblem.of(16))
    assert not reads_memory(AttentionProblem.of(17, seqlen_k=64))


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Steps of 1 and 17 queries by one of our engines, with a read bandwidth of 10, 30 and 20 GB/s."""
    fake_engines.make_known(tmp_path, monkeypatch)
    rates = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr(limits, "measure_bandwidth", lambda *_, **__: next(rates))
    study = Study(engines=["Right"], seq_lens=[1, 17], seq_len_k=64, directions=["fwd", "bwd"])
    return run(Study(**{**_fields(study), "rounds": 2, "repeats": 2, "threads": 1}), command=[])


def _fields(study: Study) -> dict[str, Any]:
    return {name: getattr(study, name) for name in study.__struct_fields__}


def test_bytes_a_second_are_recorded_of_few_queries_forward(measured: Results) -> None:
    assert measured.machine.read_bandwidth_gbps == 20.0  # once before the rounds, and once in each
    for row in measured.measurements:
        assert row.time is not None
        assert row.rates is not None
        if row.direction == "fwd" and row.problem.seqlen_q == 1:
            gbps = 64 * 2 * 64 * 8 / row.time.median_ns
            assert row.rates.gbps == pytest.approx(gbps)
            assert row.rates.percent_of_bandwidth == pytest.approx(100 * gbps / 20.0)
        else:
            assert (row.rates.gbps, row.rates.percent_of_bandwidth) == (None, None)


def test_a_feature_that_an_engine_lacks_is_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engines.make_known(tmp_path, monkeypatch)
    study = Study(
        engines=["Plain"], seq_lens=[24], windows=["none", 8], softcap=5.0, rounds=1, repeats=1, threads=1
    )
    with pytest.raises(NothingToMeasureError) as error:
        run(study, command=[])
    assert str(error.value) == (
        "nothing can be measured: Plain: the engine has no softcap; Plain: the engine has no softcap, window"
    )
