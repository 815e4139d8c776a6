"""merge_attention: attention over all keys from attentions over parts of them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.support import assert_close
from hypothesis import given
from hypothesis import strategies as st

from flashbench.dtypes import Dtype
from flashbench.errors import AttentionError
from flashbench.functional import AttentionOutput, attention
from flashbench.merge import merge_attention
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_reference
from flashbench.tolerances import UNIT_ROUNDOFF, tolerance_for

INF, NAN = np.inf, np.nan


def parts_of(problem: AttentionProblem, cuts: list[int], seed: int = 0) -> list[AttentionOutput]:
    """Attention over the keys between cuts. Equal cuts give a part without keys."""
    q, k, v, _ = problem.make_inputs(seed)
    parts = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), problem.seqlen_k], strict=True):
        if start == end:
            shape = (problem.batch, problem.num_heads, problem.seqlen_q)
            nothing = np.zeros((*shape, problem.head_dim_v), q.dtype)
            parts.append(AttentionOutput(nothing, np.full(shape, -INF, q.dtype)))
            continue
        part = problem.of(
            problem.seqlen_q,
            seqlen_k=end - start,
            batch=problem.batch,
            num_heads=problem.num_heads,
            num_kv_heads=problem.num_kv_heads,
            head_dim=problem.head_dim,
            softmax_scale=problem.softmax_scale,
        )
        o, lse = attention_reference(part, q, k[:, :, start:end], v[:, :, start:end])
        parts.append(AttentionOutput(o.astype(q.dtype), lse.astype(q.dtype)))
    return parts


@st.composite
def problems(draw: st.DrawFn) -> tuple[AttentionProblem, list[int]]:
    """A problem, and the places where its keys are cut."""
    seqlen_k = draw(st.integers(1, 40))
    problem = AttentionProblem.of(
        draw(st.integers(1, 5)),
        seqlen_k=seqlen_k,
        batch=draw(st.integers(1, 2)),
        num_heads=4,
        num_kv_heads=draw(st.sampled_from([1, 2, 4])),
        head_dim=draw(st.integers(1, 9)),
        dtype=draw(st.sampled_from(["float64", "float32"])),
        softmax_scale=draw(st.sampled_from([None, 0.0, 1.0, 40.0])),
    )
    return problem, draw(st.lists(st.integers(0, seqlen_k), max_size=6))


def tolerances(problem: AttentionProblem) -> tuple[float, float]:
    """Tolerances of o and lse. Logits are scale * sqrt(head_dim) times standard normal."""
    growth = max(1.0, problem.scale * np.sqrt(problem.head_dim))
    return growth * tolerance_for(problem.dtype, "o"), growth * tolerance_for(problem.dtype, "lse")


@given(drawn=problems(), seed=st.integers(0, 99), stacked=st.booleans())
def test_it_is_attention_over_all_the_keys(
    drawn: tuple[AttentionProblem, list[int]], seed: int, stacked: bool
) -> None:
    problem, cuts = drawn
    o_parts, lse_parts = zip(*parts_of(problem, cuts, seed), strict=True)
    merged = (
        merge_attention(np.stack(o_parts), np.stack(lse_parts))
        if stacked
        else merge_attention(o_parts, lse_parts)
    )
    o, lse = attention_reference(problem, *problem.make_inputs(seed)[:3])
    assert merged.o.dtype == merged.lse.dtype == problem.dtype
    assert_close(merged.o, o, tolerances(problem)[0])
    assert_close(merged.lse, lse, tolerances(problem)[1])


@given(drawn=problems(), data=st.data())
def test_order_and_grouping_do_not_matter(
    drawn: tuple[AttentionProblem, list[int]], data: st.DataObject
) -> None:
    problem, cuts = drawn
    parts = parts_of(problem, cuts)
    at_once = merge_attention(*zip(*parts, strict=True))
    shuffled = merge_attention(*zip(*data.draw(st.permutations(parts)), strict=True))
    # Parts may cancel. Each term of a sum adds a rounding error of the size of the largest term. The error of
    # lse is absolute in the exponent, and adds to that of o.
    size = np.abs(at_once.lse).max(initial=1.0)
    unit = (len(parts) + 2) * UNIT_ROUNDOFF[problem.dtype] * size
    largest = max(np.abs(part.o).max() for part in parts)
    assert_close(shuffled.o, at_once.o, unit * largest)
    assert_close(shuffled.lse, at_once.lse, unit)
    place = data.draw(st.integers(0, len(parts)))
    groups = [merge_attention(*zip(*group, strict=True)) for group in (parts[:place], parts[place:]) if group]
    nested = merge_attention(*zip(*groups, strict=True))
    assert_close(nested.o, at_once.o, 4 * unit * largest)
    assert_close(nested.lse, at_once.lse, 4 * unit)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_part_is_itself(dtype: Dtype) -> None:
    part = parts_of(AttentionProblem.of(5, dtype=dtype), [])[0]
    merged = merge_attention([part.o], [part.lse])
    assert np.array_equal(merged.o, part.o)
    assert np.array_equal(merged.lse, part.lse)
    assert not np.shares_memory(merged.o, part.o)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_parts_of_16_bits_are_merged_in_float64_and_rounded(dtype: type) -> None:
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 3, 40, 8)).astype(dtype)
    parts = [attention(q, k[:, :, a], v[:, :, a], return_lse=True) for a in np.s_[:7, 7:25, 25:]]
    merged = merge_attention(*zip(*parts, strict=True))
    assert (merged.o.dtype, merged.lse.dtype) == (np.dtype(dtype), np.float32)
    exact = merge_attention(
        [part.o.astype(np.float64) for part in parts], [part.lse.astype(np.float64) for part in parts]
    )
    unit = float(ml_dtypes.finfo(dtype).eps) / 2
    np.testing.assert_allclose(merged.o.astype(np.float64), exact.o, rtol=1.01 * unit, atol=1e-7)
    np.testing.assert_allclose(merged.lse, exact.lse, rtol=1e-6)
    whole = attention(q, k, v, return_lse=True)
    np.testing.assert_allclose(
        merged.o.astype(np.float64), whole.o.astype(np.float64), rtol=4 * unit, atol=4 * unit
    )
    with pytest.raises(AttentionError) as error:
        merge_attention([part.o for part in parts], [part.lse.astype(np.float64) for part in parts])
    assert str(error.value) == (
        f"lse_parts[0] has dtype float64, o_parts[0] has {np.dtype(dtype)}: lse_parts[0] must be float32"
    )


def test_a_row_that_sees_no_key_in_a_part_counts_for_nothing_whatever_o_holds() -> None:
    o = np.array([[[1.0, 2.0]], [[NAN, INF]], [[5.0, 6.0]]])
    lse = np.array([[0.0], [-INF], [0.0]])
    merged = merge_attention(o, lse)
    assert_close(merged.o, np.array([[3.0, 4.0]]), 1e-15)
    assert_close(merged.lse, np.log([2.0]), 1e-15)


def test_a_row_that_sees_no_key_at_all_is_zero() -> None:
    merged = merge_attention(np.full((2, 1, 3), NAN), np.full((2, 1), -INF))
    assert np.array_equal(merged.o, np.zeros((1, 3)))
    assert merged.lse.tolist() == [-INF]


def test_nan_stays_in_its_column_or_its_row() -> None:
    o = np.ones((2, 3, 2), "f4")
    o[0, 0, 1] = NAN
    lse = np.array([[0.0, NAN, -1000.0], [0.0, 0.0, 0.0]], "f4")
    o[0, 2, 0] = NAN  # its weight underflows to 0, but it is visible
    merged = merge_attention(o, lse)
    assert np.array_equal(merged.o, [[1, NAN], [NAN, NAN], [NAN, 1]], equal_nan=True)
    assert np.array_equal(merged.lse, np.array([np.log(2), NAN, 0], "f4"), equal_nan=True)


def test_an_infinite_logit_makes_its_row_nan_as_attention_does() -> None:
    merged = merge_attention(np.ones((2, 2, 3)), np.array([[INF, 0.0], [0.0, 0.0]]))
    assert np.array_equal(np.isnan(merged.o), [[True] * 3, [False] * 3])
    assert np.array_equal(np.isnan(merged.lse), [True, False])


def test_large_logits_do_not_overflow() -> None:
    merged = merge_attention(np.array([[[1.0]], [[3.0]]], "f4"), np.array([[1e30], [1e30]], "f4"))
    assert merged.o == 2.0
    assert merged.lse == np.float32(1e30)


def test_parts_of_other_libraries_and_of_one_head() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 6, 4))
    parts = [attention(q, k[:, keys], v[:, keys], engine="numpy", return_lse=True) for keys in np.s_[:2, 2:]]
    tensors = ([torch.from_numpy(x) for x in part] for part in zip(*parts, strict=True))
    expected = attention(q, k, v, engine="numpy", return_lse=True)
    merged = merge_attention(*tensors)
    assert type(merged.o) is np.ndarray
    assert_close(merged.o, expected.o, 1e-15)
    assert_close(merged.lse, expected.lse, 1e-15)


X, L = np.zeros((2, 3, 4)), np.zeros((2, 3))
BAD: dict[str, tuple[Any, Any, str]] = {
    "no parts": ([], [], "o_parts must have at least one part"),
    "no parts stacked": (X[:0], L[:0], "o_parts must have at least one part"),
    "a number": (np.array(1.0), L, "o_parts must have the parts as its first axis, not shape ()"),
    "other counts": ([X], [L, L], "o_parts and lse_parts must be of as many parts, not 1 and 2"),
    "a list of lists": (
        [[1.0]],
        [L],
        "o_parts[0] must be a NumPy array or another with __dlpack__, not list",
    ),
    "whole numbers": (
        [X.astype(int)],
        [L],
        "o_parts[0] must be float64, float32, bfloat16 or float16, not int64",
    ),
    "1-D": ([X[0, 0]], [L[0]], "o_parts[0] must have shape (..., seqlen, head_dim_v), not (4,)"),
    "other dtype": (
        [X, X],
        [L, L.astype("f4")],
        "lse_parts[1] has dtype float32, o_parts[0] has float64: they must be the same",
    ),
    "other o": (
        [X, X[:1]],
        [L, L],
        "o_parts[1] must have shape (2, 3, 4), as o_parts[0] has (2, 3, 4), not (1, 3, 4)",
    ),
    "other lse": (
        [X],
        [X],
        "lse_parts[0] must have shape (2, 3), as o_parts[0] has (2, 3, 4), not (2, 3, 4)",
    ),
}


@pytest.mark.parametrize(("o_parts", "lse_parts", "message"), BAD.values(), ids=BAD)
def test_a_wrong_argument_is_named(o_parts: Any, lse_parts: Any, message: str) -> None:
    with pytest.raises(AttentionError) as error:
        merge_attention(o_parts, lse_parts)
    assert str(error.value) == message
