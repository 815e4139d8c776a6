"""A study spans problems. Every feature reaches each of them; key lengths and windows follow the length."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.analysis.lengths import with_length
from flashbench.errors import ConfigError
from flashbench.problem import AttentionProblem, Feature
from flashbench.studies.lengths import rows_of_lengths
from flashbench.studies.study import Study
from flashbench.studies.windows import window_of


def problems(**settings: Any) -> list[AttentionProblem]:
    return [point.problem for point in Study(engines=["flash"], **settings).points()]


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"windows": [8]}, {"window_left": 8, "window_right": 8}),
        ({"windows": [8], "causal": [True]}, {"window_left": 8, "window_right": 0, "causal": True}),
        ({"windows": [[8, "none"]]}, {"window_left": 8, "window_right": None}),
        ({"windows": ["none"], "causal": [True]}, {"window_right": None, "causal": True}),
        ({"softcap": 50.0}, {"softcap": 50.0}),
        ({"alibi": True, "sinks": True}, {"alibi": True, "sinks": True}),
        ({"mask": "float", "mask_axes": "bhqk"}, {"mask": "float", "mask_axes": "bhqk"}),
        (
            {"mask": "block", "mask_block": 16},
            {"mask": "block", "mask_block_q": 16, "mask_block_k": 16},
        ),
        ({"dropout": 0.1, "dropout_seed": 7}, {"dropout": 0.1, "dropout_seed": 7}),
        ({"seq_len_k": 64}, {"seqlen_k": 64}),
        ({"key_lengths": [0.25, 1.0]}, {"batch": 2, "key_lengths": (8, 32)}),
        ({"key_lengths": [0.5], "batch": 3}, {"batch": 3, "key_lengths": (16, 16, 16)}),
        ({"key_lengths": [5], "seq_len_k": 6}, {"seqlen_k": 6, "key_lengths": (5,)}),
        ({"varlen": [0.5, 1.0]}, {"batch": 2, "query_lengths": (16, 32), "key_lengths": (16, 32)}),
        (
            {"varlen": [0.5, 1.0], "seq_len_k": 64},
            {"batch": 2, "seqlen_k": 64, "query_lengths": (16, 32), "key_lengths": (32, 64)},
        ),
        (
            {"varlen": [3, 32], "key_lengths": [1.0, 0.5]},
            {"batch": 2, "query_lengths": (3, 32), "key_lengths": (32, 16)},
        ),
        ({"page_size": 16}, {"page_size": 16}),
        ({"decode": True}, {"seqlen_q": 1}),
        ({"decode": True, "queries": 4, "page_size": 16}, {"seqlen_q": 4, "page_size": 16}),
    ],
)
def test_what_is_set_reaches_the_problem(settings: dict[str, Any], fields: dict[str, Any]) -> None:
    sizes = {"seqlen_k": 32, "dtype": "float64", **fields}
    window = sizes.pop("window_left", None), sizes.pop("window_right", None)
    expected = AttentionProblem.of(sizes.pop("seqlen_q", 32), window=window, **sizes)
    assert problems(seq_lens=[32], **settings) == [expected]


def test_windows_of_a_length_are_neighbours() -> None:
    found = problems(seq_lens=[64, 128], windows=["none", 16, [4, 0]])
    assert [(problem.seqlen_q, problem.window) for problem in found] == [
        (seqlen, window) for seqlen in (64, 128) for window in ((None, None), (16, 16), (4, 0))
    ]


def test_a_study_of_every_feature_is_one_problem() -> None:
    study = {"windows": [8], "softcap": 1.0, "alibi": True, "sinks": True, "mask": "bool", "dropout": 0.5}
    on = {name for problem in problems(**study, varlen=[1.0], page_size=4) for name in problem.features}
    assert on | {"key_lengths"} == set(get_args(Feature))


def test_the_batch_that_lengths_make_is_the_study_s() -> None:
    assert Study(key_lengths=[0.5, 1.0, 1.0]).batch == 3
    with pytest.raises(ConfigError) as caught:
        Study(key_lengths=[0.5, 1.0], batch=3)
    assert caught.value.hint == "batch 2 has as many"


@given(
    lengths=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    longest=st.integers(1, 10**6),
)
def test_shares_are_rows_of_every_length(lengths: list[float], longest: int) -> None:
    rows = rows_of_lengths(lengths, longest, batch=len(lengths))
    assert len(rows) == len(lengths)
    for row, share in zip(rows, lengths, strict=True):
        assert 0 <= row <= longest
        assert abs(row - share * longest) <= 1
        assert (row == 0) <= (share * longest < 1)


@given(
    st.integers(1, 300),
    st.integers(1, 10**5),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_problem_of_another_length_keeps_its_shares(
    seqlen: int, other: int, shares: list[float], packed: bool
) -> None:
    (problem,) = problems(seq_lens=[seqlen], **{"varlen" if packed else "key_lengths": shares})
    scaled = with_length(problem, other, other)
    assert (scaled.seqlen_q, scaled.seqlen_k, scaled.features) == (other, other, problem.features)
    for lengths in filter(None, (scaled.query_lengths, scaled.key_lengths)):
        for row, share in zip(lengths, shares, strict=True):
            assert abs(row / other - share) <= 1 / seqlen + 1 / other
    assert with_length(problem, seqlen, seqlen) == problem


@given(
    left=st.one_of(st.just("none"), st.integers(0, 40)),
    right=st.one_of(st.just("none"), st.integers(0, 40)),
    causal=st.booleans(),
)
def test_a_window_hides_what_its_two_sides_hide(left: Any, right: Any, causal: bool) -> None:
    problem = AttentionProblem.of(30, causal=causal, window=window_of([left, right], causal=causal))
    visible = sum(
        (left == "none" or query - key <= left)
        and (right == "none" or key - query <= right)
        and (not causal or key <= query)
        for query in range(30)
        for key in range(30)
    )
    assert problem.visible_pairs == visible
