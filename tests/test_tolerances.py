"""Tolerances: the promised figures, and their growth with the inputs, like the answers'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.support import assert_close

from flashbench.extras import Extras
from flashbench.philox import dropout_kept
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import (
    DOCUMENTED_TOLERANCE,
    Naive,
    Sizes,
    naive_unit,
    problem_tolerance,
    tolerance_for,
)

OUTPUTS = ("o", "lse", "dq", "dk", "dv")


@pytest.mark.parametrize("what", ["fwd", "bwd", "fwd_bwd", *OUTPUTS])
def test_float64_is_held_to_a_hundredth_of_the_documented_tolerance(what: str) -> None:
    assert tolerance_for("float64", what, seqlen_q=8192) == pytest.approx(DOCUMENTED_TOLERANCE / 100)


@pytest.mark.parametrize("what", OUTPUTS)
def test_float32_is_held_to_a_few_hundred_roundings(what: str) -> None:
    assert 100 * 2.0**-24 < tolerance_for("float32", what, seqlen_q=8192) < 2000 * 2.0**-24


def test_gradients_of_keys_that_very_many_queries_share_get_more() -> None:
    def bound(**sizes: int) -> list[float]:
        return [tolerance_for("float32", what, **sizes) / 2.0**-24 for what in ("dq", "dk", "dv")]

    assert bound(seqlen_q=16384) == pytest.approx([1024, 1024, 1024])
    assert bound(seqlen_q=4096, heads_per_key=8) == pytest.approx([1024, 4096, 4096])
    assert bound(seqlen_q=16, heads_per_key=4) == pytest.approx([1024, 2048, 2048])
    assert bound(seqlen_q=4096, seqlen_k=2) == pytest.approx([1024, 16384, 16384])
    assert bound(seqlen_q=4096, seqlen_k=4096) == bound(seqlen_q=4096)
    assert tolerance_for("float64", "bwd", heads_per_key=8, seqlen_q=8192) == 1e-12
    assert tolerance_for("float64", "fwd", heads_per_key=64, seqlen_q=8192, seqlen_k=1) == 1e-12


def test_a_direction_stands_for_its_outputs() -> None:
    assert tolerance_for("float32", "fwd") == tolerance_for("float32", "o")
    assert tolerance_for("float32", "bwd") == tolerance_for("float32", "dv")
    assert tolerance_for("float32", "fwd_bwd") == tolerance_for("float32", "dv")


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(v=1e30),
        Sizes(v=1e-30, do=1e-6),
        Sizes(q=1e20, k=1e-20),
        Sizes(q=1e-20, k=1e20, do=1e8),
        Sizes(q=1e-30, k=1e-30),
        Sizes(q=1e-30, k=1e-30, v=1e-30, do=1e-30),
        Sizes(q=10.0, k=10.0),
        Sizes(scale=30.0),
    ],
    ids=str,
)
def test_float32_arithmetic_stays_within_the_tolerance_of_its_sizes(sizes: Sizes) -> None:
    """The textbook formula, each step rounded to float32, on inputs far from standard normal."""
    problem = AttentionProblem.of(
        60, seqlen_k=70, head_dim=32, dtype="float32", softmax_scale=sizes.scale / np.sqrt(32)
    )
    q, k, v, do = (np.float32(size) * x for x, size in zip(problem.make_inputs(5), sizes[:4], strict=True))
    with np.errstate(under="ignore"):
        s = np.float32(problem.scale) * (q @ k.swapaxes(2, 3))
        p = np.exp(s - s.max(axis=3, keepdims=True))
        row_sum = p.sum(axis=3, keepdims=True)
        lse = (s.max(axis=3, keepdims=True) + np.log(row_sum))[..., 0]
        p /= row_sum
        o = p @ v
        ds = p * (do @ v.swapaxes(2, 3) - (do * o).sum(axis=3, keepdims=True))
        dq = np.float32(problem.scale) * ds @ k
        dk = np.float32(problem.scale) * ds.swapaxes(2, 3) @ q
        dv = p.swapaxes(2, 3) @ do
    expected = (*attention_reference(problem, q, k, v), *attention_backward_reference(problem, do, q, k, v))
    for what, actual, exact in zip(OUTPUTS, (o, lse, dq, dk, dv), expected, strict=True):
        assert actual.dtype == np.float32
        assert_close(actual, exact, tolerance_for("float32", what, seqlen_q=60, sizes=sizes))


def test_a_problem_is_held_to_its_sizes() -> None:
    problem = AttentionProblem.of(4096, seqlen_k=2, num_heads=8, num_kv_heads=2, dtype="float32")
    for what in ("fwd", "bwd", *OUTPUTS):
        expected = tolerance_for("float32", what, heads_per_key=4, seqlen_q=4096, seqlen_k=2)
        assert problem_tolerance(problem, what) == expected


def test_a_problem_of_several_lengths_is_held_to_the_widest() -> None:
    def bound(**lengths: Any) -> float:
        problem = AttentionProblem.of(4096, batch=2, dtype="float32", **lengths)
        return problem_tolerance(problem, "dv") / 2.0**-24

    assert bound() == pytest.approx(1024)
    assert bound(key_lengths=(2, 4096)) == pytest.approx(16384)
    assert bound(key_lengths=(2, 4096), query_lengths=(1, 4096)) == pytest.approx(1024)
    assert bound(key_lengths=(2, 0), query_lengths=(0, 0)) == pytest.approx(1024)


def test_dropout_widens_all_but_lse_by_what_it_multiplies_with() -> None:
    plain, dropping = (AttentionProblem.of(64, sinks=True, dropout=dropout) for dropout in (0.0, 0.75))
    for what in ("fwd", "bwd", "o", "dq", "dk", "dv", "dsinks", "dmask"):
        assert problem_tolerance(dropping, what) == pytest.approx(4 * problem_tolerance(plain, what))
    assert problem_tolerance(dropping, "lse") == problem_tolerance(plain, "lse")


@pytest.mark.parametrize("what", [*OUTPUTS, "dsinks", "dmask"])
def test_large_lse_widens_beyond_that_of_standard_normal_logits(what: Any) -> None:
    problem = AttentionProblem.of(64, alibi=True, dtype="float32")
    plain = problem_tolerance(problem, what)
    assert problem_tolerance(problem, what, largest_lse=16.0) == plain
    assert problem_tolerance(problem, what, largest_lse=160.0) == pytest.approx(10 * plain)
    # If logits are large anyway, a large lse does not add to that.
    large = Sizes(q=10.0)
    assert problem_tolerance(problem, what, sizes=large, largest_lse=160.0) == pytest.approx(
        problem_tolerance(problem, what, sizes=large)
    )


def test_sums_of_ds_are_bounded_by_the_weights_that_add_up() -> None:
    def bound(what: Any, **fields: Any) -> float:
        options = {"num_heads": 4, "head_dim_v": 16, "dtype": "float32", **fields}
        seqlen_q = options.pop("seqlen_q", 1024)
        problem = AttentionProblem.of(seqlen_q, **options)
        return problem_tolerance(problem, what) / 2.0**-24 / 4  # 4 = sqrt(head_dim_v)

    assert bound("dsinks") == pytest.approx(1024)
    assert bound("dsinks", batch=9) == pytest.approx(3 * 1024)
    assert bound("dsinks", seqlen_k=2) == pytest.approx(16 * 1024)  # 1024 queries: sqrt(1024) / 2
    assert bound("dsinks", window=(1, 0)) == pytest.approx(16 * 1024)
    assert bound("dsinks", seqlen_q=2**20) == pytest.approx(8 * 1024)  # 8 sqrt(terms)
    assert bound("dmask", mask_axes="bhqk", batch=9) == pytest.approx(1024)
    assert bound("dmask", mask_axes="bqk", batch=9) == pytest.approx(2 * 1024)
    assert bound("dmask", mask_axes="qk", batch=9) == pytest.approx(6 * 1024)
    assert bound("dmask", mask_axes="bhk", seqlen_k=2) == pytest.approx(16 * 1024)
    assert bound("dmask", mask_axes="bhq", seqlen_k=2**20) == pytest.approx(8 * 1024)


FEATURES = {
    "softcap": {"softcap": 2.0},
    "loose softcap": {"softcap": 1e4},
    "alibi": {"alibi": True},
    "far keys": {"alibi": True, "seqlen_k": 5, "seqlen_q": 1500},
    "mask": {"mask": "float"},
    "strong mask": {"mask": "float", "mask_axes": "bhqk"},
    "sinks": {"sinks": True, "batch": 3},
    "sinks of few keys": {"sinks": True, "seqlen_k": 1, "seqlen_q": 1500},
    "dropout": {"dropout": 0.9},
    "all": {"softcap": 5.0, "alibi": True, "mask": "float", "sinks": True, "dropout": 0.5},
}


@pytest.mark.parametrize("name", FEATURES)
def test_float32_arithmetic_of_features_stays_within_their_tolerance(name: str) -> None:
    """The textbook formula, each step rounded to float32. Tolerances are small next to the results."""
    options: dict[str, Any] = {"seqlen_q": 200, "num_heads": 2, "head_dim": 32, **FEATURES[name]}
    problem = AttentionProblem.of(options.pop("seqlen_q"), dtype="float32", **options)
    rng = np.random.default_rng(0)
    shape = (problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
    added = rng.standard_normal(problem.mask_shape) - (300.0 if name == "strong mask" else 0.0)
    extras = Extras(
        mask=np.broadcast_to(added.astype(np.float32), shape),
        alibi_slopes=np.full(shape[:2], 1 / 16, np.float32),
        sinks=rng.standard_normal(problem.num_heads).astype(np.float32),
    )
    q, k, v, do = problem.make_inputs(5)
    found = in_float32(problem, q, k, v, do, extras)
    o, lse = attention_reference(problem, q, k, v, extras)
    gradients = attention_backward_reference(problem, do, q, k, v, extras)
    expected = {"o": o, "lse": lse, **gradients._asdict()}
    expected |= {"dsinks": gradients.dsinks, "dmask": gradients.dmask}
    largest_lse = float(np.abs(lse).max())
    for what, exact in expected.items():
        if exact is not None:
            assert found[what].dtype == np.float32
            tolerance = problem_tolerance(problem, what, largest_lse=largest_lse)
            assert_close(found[what], exact, tolerance)
            assert tolerance < 0.02 * np.abs(exact).max()


def in_float32(
    problem: AttentionProblem, q: np.ndarray, k: np.ndarray, v: np.ndarray, do: np.ndarray, extras: Extras
) -> dict[str, np.ndarray]:
    one = np.float32(1)
    i, j = np.indices((problem.seqlen_q, problem.seqlen_k), dtype=np.float32)
    s = np.float32(problem.scale) * (q @ k.swapaxes(2, 3))
    slope = one
    if problem.softcap is not None:
        capped = np.tanh(s / np.float32(problem.softcap))
        s, slope = np.float32(problem.softcap) * capped, one - capped * capped
    if problem.alibi:
        s = s - extras.alibi_slopes[..., None, None] * abs(i + np.float32(problem.diagonal_offset) - j)
    if problem.mask is not None:
        s = s + extras.mask
    sink = np.float32(-np.inf)
    if problem.sinks:
        sink = extras.sinks[:, None, None]
    row_max = np.maximum(s.max(axis=3, keepdims=True), sink)
    p, p_sink = np.exp(s - row_max), np.exp(sink - row_max)
    row_sum = p.sum(axis=3, keepdims=True) + p_sink
    p, p_sink = p / row_sum, p_sink / row_sum
    kept = one
    if problem.dropout:
        rows, columns = np.arange(problem.seqlen_q), np.arange(problem.seqlen_k)
        heads = [[dropout_kept(problem, b, h, rows, columns) for h in range(2)] for b in range(problem.batch)]
        kept = np.array(heads) / np.float32(1 - problem.dropout)
    o = (kept * p) @ v
    delta = (do * o).sum(axis=3, keepdims=True)
    ds = p * (kept * (do @ v.swapaxes(2, 3)) - delta)
    dmask = ds.sum(axis=tuple(n for n in range(4) if "bhqk"[n] not in problem.mask_axes), keepdims=True)
    ds = np.float32(problem.scale) * slope * ds
    return {
        "o": o,
        "lse": (row_max + np.log(row_sum))[..., 0],
        "dq": ds @ k,
        "dk": ds.swapaxes(2, 3) @ q,
        "dv": (kept * p).swapaxes(2, 3) @ do,
        "dsinks": -(p_sink * delta).sum(axis=(0, 2, 3)),
        "dmask": dmask,
    }


HALVES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@HALVES
def test_o_may_have_twice_the_naive_error_and_gradients_three_times(dtype: Any) -> None:
    problem, naive = AttentionProblem.of(512, dtype=dtype), Naive(error=0.02, largest=3.0)
    assert problem_tolerance(problem, "o", naive=naive) == pytest.approx(2 * 0.02 + 1e-5)
    for what in ("dq", "dk", "dv", "dsinks", "dmask"):
        assert problem_tolerance(problem, what, naive=naive) == pytest.approx(3 * 0.02 + 1e-5)
    with pytest.raises(ValueError, match=f"the tolerance of o in {dtype} follows from a naive error"):
        problem_tolerance(problem, "o")


@HALVES
def test_small_outputs_get_less_than_1e_5_more_and_large_ones_no_more(dtype: Any) -> None:
    problem, naive = AttentionProblem.of(512, dtype=dtype), Naive(error=0.0, largest=0.0)
    for v in (1e-3, 1e3):
        sizes = Sizes(v=v)
        more = problem_tolerance(problem, "o", sizes=sizes, naive=naive) - 2 * naive_unit(
            problem, "o", naive, sizes=sizes
        )
        assert more == pytest.approx(1e-5 * min(1.0, v), rel=1e-6)


@HALVES
def test_a_result_that_is_rounded_once_is_right_though_the_naive_one_is_exact(dtype: Any) -> None:
    unit_roundoff = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    problem, naive = AttentionProblem.of(512, dtype=dtype), Naive(error=0.0, largest=4.0)
    for what in ("o", "dv"):
        assert problem_tolerance(problem, what, naive=naive) >= 4.0 * unit_roundoff
    # What does not fit into float16 is no reason for more.
    huge = Naive(error=0.0, largest=1e30)
    if dtype == "float16":
        assert naive_unit(problem, "o", huge) <= 65504 * unit_roundoff


@HALVES
def test_lse_of_16_bit_inputs_is_held_to_float32(dtype: Any) -> None:
    of_halves, of_float32 = (AttentionProblem.of(512, dtype=d) for d in (dtype, "float32"))
    for sizes, largest_lse in ((Sizes(), 0.0), (Sizes(q=30.0), 0.0), (Sizes(), 64.0)):
        options = {"sizes": sizes, "largest_lse": largest_lse}
        assert problem_tolerance(of_halves, "lse", **options) == problem_tolerance(
            of_float32, "lse", **options
        )


@HALVES
def test_queries_that_share_few_keys_add_up_their_errors_in_dk_alone(dtype: Any) -> None:
    problem, naive = AttentionProblem.of(400, dtype=dtype), Naive(error=0.0, largest=0.0)
    many, few = (
        {what: naive_unit(problem, what, naive, sizes=sizes) for what in ("dq", "dk")}
        for sizes in (
            Sizes(),
            Sizes(keys=2),
        )
    )
    assert few["dk"] == pytest.approx(10 * many["dk"])  # sqrt(400) / 2
    assert few["dq"] == many["dq"]
