"""The oracle against independent answers: PyTorch, SciPy, finite differences, and rows computed by hand."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers import feature_problems, torch_formula
from helpers.feature_problems import problems, random_extras
from helpers.support import assert_close
from hypothesis import given
from scipy.special import logsumexp, softmax

from flashbench import reference
from flashbench.dtypes import DTYPES
from flashbench.extras import make_extras
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import attention_backward_reference, attention_reference, head_group

PROBLEMS = {
    "one": AttentionProblem.of(1),
    "square": AttentionProblem.of(33, batch=2, num_heads=3, head_dim=17),
    "causal": AttentionProblem.of(33, batch=2, num_heads=2, causal=True),
    "wide-values": AttentionProblem.of(20, head_dim=5, head_dim_v=40),
    "gqa": AttentionProblem.of(20, num_heads=6, num_kv_heads=2, head_dim=8, causal=True),
    "bottom-right": AttentionProblem.of(13, seqlen_k=29, causal=True, head_dim=8),
    "top-left": AttentionProblem.of(13, seqlen_k=29, causal=True, causal_alignment="top-left", head_dim=8),
    "more-queries-top-left": AttentionProblem.of(
        29, seqlen_k=13, causal=True, causal_alignment="top-left", head_dim=8
    ),
    "more-queries-bottom-right": AttentionProblem.of(29, seqlen_k=13, causal=True, head_dim=8),
    "scaled": AttentionProblem.of(20, softmax_scale=-0.7, head_dim=8),
    "several-blocks": AttentionProblem.of(300, seqlen_k=280, causal=True, head_dim=4),
}
EVERY_PROBLEM = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def visible_pairs(problem: AttentionProblem) -> np.ndarray:
    """The mask by one comparison per pair. Query i has position i + offset among the keys."""
    i, j = np.indices((problem.seqlen_q, problem.seqlen_k))
    if not problem.causal:
        return np.ones(i.shape, dtype=bool)
    offset = problem.seqlen_k - problem.seqlen_q if problem.causal_alignment == "bottom-right" else 0
    return j <= i + offset


@EVERY_PROBLEM
def test_the_oracle_agrees_with_pytorch_and_its_autograd(problem: AttentionProblem) -> None:
    torch = pytest.importorskip("torch")
    inputs = problem.make_inputs(1)
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
    rows = visible_pairs(problem).any(axis=1)  # torch's softmax of no key is NaN: leave those rows out
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        o = torch.nn.functional.scaled_dot_product_attention(
            q[:, :, rows],
            k,
            v,
            attn_mask=torch.from_numpy(visible_pairs(problem)[rows]),
            scale=problem.scale,
            enable_gqa=True,
        )
    expected = torch.autograd.grad(o, (q, k, v), torch.from_numpy(inputs.do[:, :, rows]))

    actual, lse = attention_reference(problem, inputs.q, inputs.k, inputs.v)
    gradients = attention_backward_reference(problem, inputs.do, inputs.q, inputs.k, inputs.v)

    assert_close(actual[:, :, rows], o.detach().numpy(), 1e-13)
    assert not actual[:, :, ~rows].any()
    assert np.all(np.isneginf(lse) == ~rows)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert_close(ours, theirs.numpy(), 1e-13)


@given(problem=problems(without=frozenset({"block_table"})))
def test_every_feature_agrees_with_the_formula_in_pytorch_and_its_autograd(problem: AttentionProblem) -> None:
    pytest.importorskip("torch")
    inputs, extras = problem.make_inputs(1), random_extras(problem, 2)
    q, k, v, do = inputs
    expected = torch_formula.answers(problem, inputs, extras)
    gradients = attention_backward_reference(problem, do, q, k, v, extras)
    found = (*attention_reference(problem, q, k, v, extras), *gradients, gradients.dsinks, gradients.dmask)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert_close(ours, theirs, 1e-12)


# All kinds of mask array.
MASKING = problems(without=frozenset({"softcap", "sinks", "dropout", "varlen", "block_table"}))


@given(problem=MASKING)
def test_windows_lengths_masks_and_alibi_are_masks_of_pytorchs_attention(problem: AttentionProblem) -> None:
    torch = pytest.importorskip("torch")
    inputs, extras = problem.make_inputs(1), random_extras(problem, 2)
    visible = np.zeros((problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k), dtype=bool)
    bias = np.zeros(visible.shape)
    for b, sequence in enumerate(problem.sequences()):
        i, j = np.indices((problem.seqlen_q, sequence.seqlen_k))
        diagonal = sequence.seqlen_k - problem.seqlen_q
        distance = abs(i - j + (diagonal if problem.causal_alignment == "bottom-right" else 0))
        for h in range(problem.num_heads):
            visible[b, h, :, : sequence.seqlen_k] = feature_problems.visible_pairs(problem, extras, b, h)
            if extras.alibi_slopes is not None:
                bias[b, h, :, : sequence.seqlen_k] -= extras.alibi_slopes[b, h] * distance
    if problem.mask == "float":
        bias += extras.mask
    rows = visible.any(axis=3)  # a row without keys: let torch see all keys, and ignore it
    shown = visible | ~rows[..., np.newaxis]
    additive = problem.mask == "float" or problem.alibi
    mask = np.where(shown, np.where(visible, bias, 0.0), -np.inf) if additive else shown
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in inputs[:3])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        o = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.from_numpy(mask), scale=problem.scale, enable_gqa=True
        )
    do = inputs.do * rows[..., np.newaxis]
    expected = torch.autograd.grad(o, (q, k, v), torch.from_numpy(do))

    actual, _ = attention_reference(problem, *inputs[:3], extras)
    gradients = attention_backward_reference(problem, inputs.do, *inputs[:3], extras)
    assert_close(actual[rows], o.detach().numpy()[rows], 1e-12)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert_close(ours, theirs.numpy(), 1e-12)


@EVERY_PROBLEM
def test_the_oracle_agrees_with_scipy(problem: AttentionProblem) -> None:
    q, k, v, _ = problem.make_inputs(2)
    o, lse = attention_reference(problem, q, k, v)
    group = problem.num_heads // problem.num_kv_heads
    for b, h in np.ndindex(problem.batch, problem.num_heads):
        scores = problem.scale * np.einsum("id,jd->ij", q[b, h], k[b, h // group])
        for i, seen in enumerate(visible_pairs(problem)):
            if seen.any():
                row = scores[i, seen]
                assert abs(lse[b, h, i] - logsumexp(row)) < 1e-13
                assert_close(o[b, h, i], softmax(row) @ v[b, h // group][seen], 1e-13)


@EVERY_PROBLEM
def test_gradients_agree_with_central_differences(problem: AttentionProblem) -> None:
    """Along random directions: one number tests every entry of a gradient at once."""
    inputs = problem.make_inputs(3)
    gradients = attention_backward_reference(problem, inputs.do, inputs.q, inputs.k, inputs.v)
    rng = np.random.default_rng(4)
    for name in ("q", "k", "v"):
        x = getattr(inputs, name)
        direction = rng.standard_normal(x.shape) / math.sqrt(x.size)

        def loss(step: float, x=x, name=name, direction=direction) -> float:
            moved: Inputs = inputs._replace(**{name: x + step * direction})
            o, _ = attention_reference(problem, moved.q, moved.k, moved.v)
            return float((moved.do * o).sum())

        # Central differences with step h have an error of h^2 / 6 times the third derivative. Richardson
        # makes it h^4.
        h = 1e-3
        slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
        assert slope == pytest.approx(float((getattr(gradients, "d" + name) * direction).sum()), abs=1e-9)


def test_computes_in_float64_whatever_comes_in() -> None:
    problem = AttentionProblem.of(12, head_dim=8, dtype="float32")
    q, k, v, do = problem.make_inputs(0)
    o, lse = attention_reference(problem, q, k, v)
    exact, _ = attention_reference(problem, *(x.astype(np.float64) for x in (q, k, v)))
    assert o.dtype == lse.dtype == np.float64
    assert np.array_equal(o, exact)
    assert {x.dtype for x in attention_backward_reference(problem, do, q, k, v)} == {np.dtype(np.float64)}


def test_rows_without_a_visible_key_are_zero() -> None:
    problem = AttentionProblem.of(9, seqlen_k=4, causal=True, head_dim=3)  # rows 0..4 see nothing
    q, k, v, do = problem.make_inputs(0)
    q[:, :, :5] = np.nan
    do[:, :, :5] = np.inf
    o, lse = attention_reference(problem, q, k, v)
    gradients = attention_backward_reference(problem, do, q, k, v)
    assert not o[:, :, :5].any()
    assert np.isneginf(lse[:, :, :5]).all()
    assert np.isfinite(lse[:, :, 5:]).all()
    assert not gradients.dq[:, :, :5].any()
    assert all(np.isfinite(x).all() for x in (o, *gradients))


def rows_with_nan(x: np.ndarray) -> list[int]:
    return sorted(set(np.nonzero(np.isnan(x))[2].tolist()))


# Query i sees the keys 0..i, so a NaN in key or value 5 reaches the queries from 5 on, and a NaN in
# query 5 the keys up to 5. What several rows mix (dk, dv of shared keys) follows from those.
AFTER, UP_TO, ALL = list(range(5, 8)), list(range(6)), list(range(8))


@pytest.mark.parametrize(
    ("name", "o", "dq", "dk", "dv"),
    [
        ("q", [5], [5], UP_TO, UP_TO),
        ("k", AFTER, AFTER, ALL, ALL),
        ("v", AFTER, AFTER, ALL, []),
        ("do", [], [5], UP_TO, UP_TO),
    ],
)
def test_nan_reaches_just_the_rows_that_see_it(
    name: str, o: list[int], dq: list[int], dk: list[int], dv: list[int]
) -> None:
    problem = AttentionProblem.of(8, head_dim=3, causal=True)
    inputs = problem.make_inputs(0)
    getattr(inputs, name)[0, 0, 5, 1] = np.nan
    actual, lse = attention_reference(problem, inputs.q, inputs.k, inputs.v)
    gradients = attention_backward_reference(problem, inputs.do, inputs.q, inputs.k, inputs.v)
    assert rows_with_nan(actual) == o
    assert np.flatnonzero(np.isnan(lse)).tolist() == (o if name in "qk" else [])
    assert [rows_with_nan(x) for x in gradients] == [dq, dk, dv]


def test_a_visible_nan_counts_even_where_its_weight_underflows() -> None:
    problem = AttentionProblem.of(2, head_dim=1, softmax_scale=1.0)
    q = np.array([[[[1.0], [0.0]]]])
    k = np.array([[[[0.0], [-1e4]]]])
    v = np.array([[[[1.0], [np.nan]]]])
    o, lse = attention_reference(problem, q, k, v)
    assert np.isnan(o).all()
    assert lse[0, 0, 0] == 0.0


def test_scores_that_overflow_stay_in_the_rows_that_see_them() -> None:
    problem = AttentionProblem.of(4, head_dim=2, causal=True)
    q, k, v, do = problem.make_inputs(0)
    q[0, 0, 2], k[0, 0, 2] = 1e200, 1e200
    o, _ = attention_reference(problem, q, k, v)
    gradients = attention_backward_reference(problem, do, q, k, v)
    assert rows_with_nan(o) == rows_with_nan(gradients.dq) == [2]
    assert rows_with_nan(gradients.dv) == [0, 1, 2]


def test_blocks_of_rows_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PROBLEMS["more-queries-bottom-right"]
    q, k, v, do = problem.make_inputs(0)
    whole = (*attention_reference(problem, q, k, v), *attention_backward_reference(problem, do, q, k, v))
    for rows in (1, 5, 29):
        monkeypatch.setattr(reference, "ROWS_PER_BLOCK", rows)
        parts = (*attention_reference(problem, q, k, v), *attention_backward_reference(problem, do, q, k, v))
        for part, expected in zip(parts, whole, strict=True):
            assert_close(part, expected, 1e-14)


def test_a_head_group_is_checked_alone() -> None:
    problem = AttentionProblem.of(7, batch=2, num_heads=6, num_kv_heads=3, head_dim=4, causal=True)
    q, k, v, do = problem.make_inputs(0)
    o, lse = attention_reference(problem, q, k, v)
    gradients = attention_backward_reference(problem, do, q, k, v)
    for batch, kv_head in np.ndindex(2, 3):
        part, queries, keys, _ = head_group(problem, batch, kv_head)
        assert part == msgspec.structs.replace(problem, batch=1, num_heads=2, num_kv_heads=1)
        o_part, lse_part = attention_reference(part, q[queries], k[keys], v[keys])
        of_part = attention_backward_reference(part, do[queries], q[queries], k[keys], v[keys])
        assert np.array_equal(o_part, o[queries])
        assert np.array_equal(lse_part, lse[queries])
        assert np.array_equal(of_part.dq, gradients.dq[queries])
        assert np.array_equal(of_part.dk, gradients.dk[keys])
        assert np.array_equal(of_part.dv, gradients.dv[keys])


# The naive computation in a 16-bit dtype, whose errors are the measure of an engine's


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_naive_computation_errs_as_much_as_pytorchs_eager_code(dtype: Any, causal: bool) -> None:
    torch = pytest.importorskip("torch")
    problem = AttentionProblem.of(96, num_heads=4, head_dim=32, dtype=dtype, causal=causal)
    entry = DTYPES[problem.dtype]
    inputs = problem.make_inputs(seed=3)
    right = (attention_reference(problem, *inputs[:3])[0], *_gradients(problem, inputs))
    naive = (
        attention_reference(problem, *inputs[:3], rounded_to=problem.dtype)[0],
        *_gradients(problem, inputs, rounded_to=problem.dtype),
    )
    q, k, v, do = (torch.from_numpy(entry.view(x).copy()).to(getattr(torch, dtype)) for x in inputs)
    tensors = [x.requires_grad_() for x in (q, k, v)]
    scores = (q @ k.transpose(2, 3)) * problem.scale
    if causal:
        scores = scores.masked_fill(~torch.ones(96, 96, dtype=torch.bool).tril(), float("-inf"))
    o = scores.softmax(dim=-1) @ v
    eager = (o, *torch.autograd.grad(o, tensors, do))
    for name, exact, ours, theirs in zip(("o", "dq", "dk", "dv"), right, naive, eager, strict=True):
        of_ours = np.abs(ours - exact)
        of_eager = np.abs(theirs.detach().double().numpy() - exact)
        # Where each rounds differs a little, so largest errors may; typical errors hardly do.
        assert np.mean(of_ours) == pytest.approx(np.mean(of_eager), rel=0.2), name
        assert np.max(of_ours) == pytest.approx(np.max(of_eager), rel=0.7), name


def _gradients(problem: AttentionProblem, inputs: Any, **options: Any) -> Any:
    q, k, v, do = inputs
    return attention_backward_reference(problem, do, q, k, v, **options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_naive_computation_rounds_to_what_the_dtype_can_store(dtype: Any) -> None:
    entry = DTYPES[dtype]
    problem = AttentionProblem.of(20, num_heads=2, num_kv_heads=1, head_dim=16, dtype=dtype, sinks=True)
    extras, inputs = make_extras(problem), problem.make_inputs()
    o, _ = attention_reference(problem, *inputs[:3], extras, rounded_to=dtype)
    q, k, v, do = inputs
    found = attention_backward_reference(problem, do, q, k, v, extras, rounded_to=dtype)
    for x in (o, *found, found.dsinks):
        large = np.where(np.abs(x) < entry.smallest_normal, 0.0, x)  # denormals have no place in the rounding
        np.testing.assert_array_equal(entry.view(entry.make(large)), large)


def test_the_naive_computation_does_not_overflow() -> None:
    problem = AttentionProblem.of(20, head_dim=64, dtype="float16", softmax_scale=1.0)
    q, k, v, _ = (x * np.float16(200) for x in problem.make_inputs())
    o, lse = attention_reference(problem, q, k, v, rounded_to="float16")
    assert np.isfinite(o).all()
    assert lse.max() > 65504
