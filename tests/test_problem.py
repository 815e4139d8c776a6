"""What a problem refuses, which features it reports, and its counts against a loop."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.feature_problems import problems, random_extras, visible_pairs
from hypothesis import given

from flashbench.errors import AttentionError
from flashbench.extras import NO_EXTRAS
from flashbench.problem import AttentionProblem


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": (-1, None)}, "window_left must be at least 0, or None for no limit, not -1"),
        ({"window": (None, -3)}, "window_right must be at least 0, or None for no limit, not -3"),
        ({"softcap": 0.0}, "softcap must be above 0 and finite, not 0.0"),
        ({"softcap": -1.0}, "softcap must be above 0"),
        ({"softcap": float("inf")}, "softcap must be above 0 and finite, not inf"),
        ({"softcap": float("nan")}, "softcap must be above 0 and finite, not nan"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, not -0.1"),
        ({"dropout": float("nan")}, "dropout must be at least 0 and below 1, not nan"),
        ({"dropout_seed": -1}, r"dropout_seed must be at least 0 and below 2\*\*64, not -1"),
        ({"dropout_seed": 2**64}, "dropout_seed must be at least 0 and below"),
        ({"mask_axes": "kq"}, "mask_axes must be some of b, h, q, k in this order, not 'kq'"),
        ({"mask_axes": "qq"}, "mask_axes must be some of"),
        ({"mask_axes": "qx"}, "mask_axes must be some of"),
        ({"mask": "block", "mask_axes": "bk"}, "mask_axes of a block mask must have q and k, not be 'bk'"),
        ({"mask_block_q": 0}, "mask_block_q must be at least 1, not 0"),
        ({"mask_block_k": -2}, "mask_block_k must be at least 1, not -2"),
        ({"page_size": 0}, "page_size must be at least 1, not 0"),
        ({"key_lengths": (3,)}, r"key_lengths must name batch \(2\) lengths, not 1"),
        ({"key_lengths": (3, 8)}, r"key_lengths must be from 0 to 7, not \[3, 8\]"),
        ({"key_lengths": (3, -1)}, "key_lengths must be from 0 to 7"),
        (
            {"query_lengths": (3, 6), "key_lengths": (1, 1)},
            r"query_lengths must be from 0 to 5, not \[3, 6\]",
        ),
        ({"query_lengths": (3, 4)}, "query_lengths must come with key_lengths"),
    ],
)
def test_broken_rules_are_told_by_name_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AttentionError, match=message):
        AttentionProblem.of(5, seqlen_k=7, batch=2, **fields)


@pytest.mark.parametrize(
    ("fields", "features"),
    [
        ({}, set()),
        ({"causal": True}, set()),
        ({"causal": True, "window": (None, 3)}, set()),  # causal hides more already
        ({"causal": True, "window": (3, None)}, {"window"}),
        ({"window": (None, 0)}, {"window"}),
        ({"window": (0, None)}, {"window"}),
        ({"softcap": 2.0}, {"softcap"}),
        ({"alibi": True, "sinks": True}, {"alibi", "sinks"}),
        ({"mask": "float"}, {"mask"}),
        ({"key_lengths": (1, 2)}, {"key_lengths"}),
        ({"key_lengths": (1, 2), "query_lengths": (1, 2)}, {"varlen"}),
        ({"dropout": 0.1}, {"dropout"}),
        ({"dropout": 0.0, "dropout_seed": 4}, set()),
        ({"page_size": 2, "key_lengths": (1, 2)}, {"block_table", "key_lengths"}),
    ],
)
def test_features_are_those_that_are_on(fields: dict[str, Any], features: set[str]) -> None:
    assert AttentionProblem.of(5, batch=2, **fields).features == features


def test_defaults_are_left_out_of_records() -> None:
    bare = AttentionProblem.of(5, dropout=0, causal=True)
    assert set(msgspec.to_builtins(bare)) == {
        *("batch", "num_heads", "num_kv_heads", "seqlen_q", "seqlen_k", "head_dim", "head_dim_v"),
        *("dtype", "causal"),
    }


@given(problem=problems())
def test_a_problem_survives_json(problem: AttentionProblem) -> None:
    written = json.loads(json.dumps(msgspec.to_builtins(problem)))
    assert msgspec.convert(written, AttentionProblem) == problem


@pytest.mark.parametrize("field", ["dropout", "page_size"])
def test_rules_hold_for_problems_read_from_files(field: str) -> None:
    written = msgspec.to_builtins(AttentionProblem.of(5)) | {field: -1}
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(written, AttentionProblem)


@given(problem=problems(longest=20, without=frozenset({"mask"})))
def test_visible_pairs_are_those_that_a_loop_counts(problem: AttentionProblem) -> None:
    counted = [visible_pairs(problem, NO_EXTRAS, b, 0) for b in range(problem.batch)]
    assert problem.visible_pairs == sum(int(pairs.sum()) for pairs in counted)
    assert problem.masked == any(not pairs.all() for pairs in counted)
    for direction, products in (("fwd", (1, 1)), ("bwd", (3, 2)), ("fwd_bwd", (4, 3))):
        per_pair = products[0] * problem.head_dim + products[1] * problem.head_dim_v
        assert problem.flops(direction) == 2 * problem.num_heads * problem.visible_pairs * per_pair


@given(problem=problems())
def test_sequences_lie_where_the_arrays_have_room_for_them(problem: AttentionProblem) -> None:
    """All sequences' queries fill q, each row once. Keys lie within k, and pages hold all keys."""
    sequences = problem.sequences()
    assert len(sequences) == problem.batch
    assert [problem.sequence(b) for b in range(problem.batch)] == sequences
    assert problem.length_counts == Counter((one.seqlen_q, one.seqlen_k) for one in sequences)
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    assert [x.shape for x in inputs] == [
        problem.q_shape,
        problem.k_shape,
        (*problem.k_shape[:3], problem.head_dim_v),
        (*problem.q_shape[:3], problem.head_dim_v),
    ]
    queries = np.zeros((problem.q_shape[0], problem.q_shape[2]), dtype=int)
    keys = np.zeros((problem.k_shape[0], problem.k_shape[2]), dtype=int)
    for b, (row, first_query, first_key, seqlen_q, seqlen_k) in enumerate(sequences):
        assert queries[row, first_query : first_query + seqlen_q].shape == (seqlen_q,)
        queries[row, first_query : first_query + seqlen_q] += 1
        if problem.page_size is None:
            assert keys[row, first_key : first_key + seqlen_k].shape == (seqlen_k,)
            keys[row, first_key : first_key + seqlen_k] += 1
        else:
            places = np.arange(seqlen_k)
            keys[extras.block_table[b, places // problem.page_size], places % problem.page_size] += 1
    assert (queries == 1).all()
    assert keys.max(initial=0) <= 1
    assert keys.sum() == sum(sequence.seqlen_k for sequence in sequences)
    if problem.packed and problem.page_size is None:
        assert (keys == 1).all()


@given(problem=problems())
def test_bytes_are_those_of_the_arrays(problem: AttentionProblem) -> None:
    q, k, v, do = problem.make_inputs(0)
    lse = do[..., 0].nbytes
    assert problem.kv_bytes == k.nbytes + v.nbytes
    assert problem.input_bytes("fwd") == q.nbytes + k.nbytes + v.nbytes
    assert problem.input_bytes("fwd_bwd") == q.nbytes + k.nbytes + v.nbytes + do.nbytes
    assert problem.input_bytes("bwd") == q.nbytes + k.nbytes + v.nbytes + 2 * do.nbytes + lse
    assert problem.output_bytes("fwd") == do.nbytes + lse
    assert problem.output_bytes("fwd_bwd") == do.nbytes + lse + q.nbytes + k.nbytes + v.nbytes


def test_long_problems_are_counted_without_looping() -> None:
    n = 2**40
    problem = AttentionProblem.of(n, causal=True, window=(1023, None))
    assert problem.visible_pairs == 1024 * n - 1023 * 1024 // 2
