"""attention_varlen: each sequence of a packed batch gives the same as alone, without copies."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.feature_problems import problems, random_extras
from helpers.oracle_engine import OracleEngine
from helpers.public_calls import cu_seqlens, options_of, packed
from helpers.support import assert_close
from hypothesis import assume, given
from hypothesis import strategies as st

from flashbench.errors import UnsupportedError
from flashbench.functional import AttentionOutput, attention, attention_backward
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.varlen import attention_varlen, attention_varlen_backward


@st.composite
def packed_problems(draw: st.DrawFn) -> AttentionProblem:
    """Any features but pages; some sequences without queries or keys."""
    problem = draw(problems(without=frozenset(["varlen", "key_lengths", "block_table"])))
    lengths = {
        name: tuple(draw(st.lists(st.integers(0, most), min_size=problem.batch, max_size=problem.batch)))
        for name, most in (("query_lengths", problem.seqlen_q), ("key_lengths", problem.seqlen_k))
    }
    assume(all(map(any, lengths.values())))
    longest = {"seqlen_q": max(lengths["query_lengths"]), "seqlen_k": max(lengths["key_lengths"])}
    return msgspec.structs.replace(problem, **lengths, **longest)


@given(problem=packed_problems(), seed=st.integers(0, 99))
def test_every_option_reaches_the_engine_packed(
    problem: AttentionProblem, seed: int, oracle: OracleEngine
) -> None:
    inputs = problem.make_inputs(seed)
    extras = random_extras(problem, seed)
    q, k, v, do = map(packed, inputs)
    bounds = cu_seqlens(problem.query_lengths), cu_seqlens(problem.key_lengths)
    options = {**options_of(problem, extras), "engine": "oracle"}
    o, lse = attention_varlen(q, k, v, *bounds, return_lse=True, **options)
    expected_o, expected_lse = attention_reference(problem, *inputs[:3], extras)
    assert np.array_equal(o, packed(expected_o))
    assert np.array_equal(lse, expected_lse[0])
    return_dmask = problem.mask == "float"
    found = attention_varlen_backward(do, q, k, v, o, lse, *bounds, return_dmask=return_dmask, **options)
    expected = attention_backward_reference(problem, inputs.do, *inputs[:3], extras)
    for actual, exact in zip(found, expected, strict=True):
        assert np.array_equal(actual, packed(exact))
    for name in ("dsinks", "dmask"):
        actual, exact = getattr(found, name), getattr(expected, name)
        assert (actual is None) == (exact is None)
        assert actual is None or np.array_equal(actual, exact)


QUERIES, KEYS = (3, 0, 17, 1), (5, 4, 9, 1)


def arrays(dtype: str = "float64") -> list[np.ndarray]:
    """q, k, v and do of four sequences."""
    rng = np.random.default_rng(0)
    shapes = (sum(QUERIES), 4, 8), (sum(KEYS), 2, 8), (sum(KEYS), 2, 5), (sum(QUERIES), 4, 5)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("engine", ["oracle", "flash", "standard"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"causal": True, "causal_alignment": "top-left"},
        {"window": (2, 1), "softcap": 2.0},
    ],
)
def test_each_sequence_is_as_if_it_were_alone(
    engine: str, options: dict[str, Any], oracle: OracleEngine
) -> None:
    q, k, v, do = arrays()
    bounds = cu_seqlens(QUERIES), np.array(cu_seqlens(KEYS), np.int32)
    o, lse = attention_varlen(q, k, v, *bounds, engine=engine, return_lse=True, **options)
    found = attention_varlen_backward(do, q, k, v, o, lse, *bounds, engine=engine, **options)
    for start, end, first, last in zip(*(b[i:] for b in bounds for i in (0, 1)), strict=False):
        if start == end:
            assert not found.dk[first:last].any()
            assert not found.dv[first:last].any()
            continue
        alone = [x.swapaxes(0, 1)[None] for x in (q[start:end], k[first:last], v[first:last], do[start:end])]
        exact = attention(*alone[:3], engine="oracle", return_lse=True, **options)
        assert_close(o[start:end], packed(exact.o), 1e-12)
        assert_close(lse[:, start:end], exact.lse[0], 1e-12)
        gradients = attention_backward(alone[3], *alone[:3], *exact, engine="oracle", **options)
        slices = (slice(start, end), slice(first, last), slice(first, last))
        for actual, rows, expected in zip(found, slices, gradients, strict=True):
            assert_close(actual[rows], packed(expected), 1e-12)


def test_packed_sequences_are_pytorchs_nested_ones() -> None:
    torch = pytest.importorskip("torch")
    q, k, v, _ = arrays("float32")
    bounds = cu_seqlens(QUERIES), cu_seqlens(KEYS)
    o = attention_varlen(*map(torch.from_numpy, (q, k, v)), *map(torch.tensor, bounds), engine="flash")
    for start, end, first, last in zip(*(b[i:] for b in bounds for i in (0, 1)), strict=False):
        rows = (torch.from_numpy(x).transpose(0, 1) for x in (q[start:end], k[first:last], v[first:last]))
        expected = torch.nn.functional.scaled_dot_product_attention(*rows, enable_gqa=True)
        assert_close(o[start:end], expected.transpose(0, 1).numpy(), 1e-5)


def test_nothing_is_copied(oracle: OracleEngine) -> None:
    q, k, v, do = arrays()
    bounds = cu_seqlens(QUERIES), cu_seqlens(KEYS)
    o, lse = attention_varlen(q, k, v, *bounds, engine="oracle", return_lse=True)
    assert all(map(np.shares_memory, oracle.arrays, (q, k, v)))
    attention_varlen_backward(do, q, k, v, o, lse, *bounds, engine="oracle")
    assert all(map(np.shares_memory, oracle.arrays, (do, q, k, v, o, lse)))
    assert all(x.shape[0] == 1 for x in oracle.arrays)


def test_results_have_names_and_the_callers_shapes() -> None:
    q, k, v, _ = arrays()
    bounds = cu_seqlens(QUERIES), cu_seqlens(KEYS)
    result = attention_varlen(q, k, v, *bounds, return_lse=True)
    assert isinstance(result, AttentionOutput)
    assert result.o.shape == (21, 4, 5)
    assert result.lse.shape == (4, 21)
    assert np.array_equal(attention_varlen(q, k, v, *bounds), result.o)


def test_an_engine_without_lse_says_so(oracle: OracleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = oracle.forward
    monkeypatch.setattr(oracle, "forward", lambda *x, **o: forward(*x, **o)._replace(lse=None))
    q, k, v, _ = arrays()
    with pytest.raises(UnsupportedError, match="engine 'oracle' gives no lse for this problem"):
        attention_varlen(q, k, v, cu_seqlens(QUERIES), cu_seqlens(KEYS), engine="oracle", return_lse=True)
