"""What is special about float16 and bfloat16: one rounding, no overflow inside, tiny numbers are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.half_checks import HALVES, numbers_of, paths_of

from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import Engine, Settings, get_engine
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference

ENGINES = [
    pytest.param(get_engine("flash"), Settings(path="convert"), id="flash"),
    pytest.param(get_engine("flash"), Settings(use_simd=False), id="scalar"),
    pytest.param(get_engine("standard"), Settings(), id="standard"),
    pytest.param(get_engine("numpy"), Settings(), id="numpy"),
]
each_engine = pytest.mark.parametrize(("engine", "settings"), ENGINES)
on_every_path = pytest.mark.parametrize(
    ("dtype", "path"), [(dtype, path) for dtype in HALVES for path in paths_of(dtype)]
)
dtypes = pytest.mark.parametrize("dtype", HALVES)


def stored(dtype: Dtype, numbers: Any) -> np.ndarray:
    return DTYPES[dtype].make(np.asarray(numbers, np.float64))


def filled(dtype: Dtype, shape: tuple[int, ...], number: float) -> np.ndarray:
    return stored(dtype, np.full(shape, number))


@dtypes
@each_engine
def test_o_and_dv_are_within_one_rounding_of_the_exact_result(
    engine: Engine, settings: Settings, dtype: Dtype
) -> None:
    """Element by element: p is not rounded, and sums do not pass through 16 bits."""
    problem = AttentionProblem.of(300, num_heads=4, num_kv_heads=2, causal=True, dtype=dtype)
    q, k, v, do = problem.make_inputs()
    o, _ = attention_reference(problem, q, k, v)
    gradients = attention_backward_reference(problem, do, q, k, v)
    forward = engine.forward(problem, settings, q, k, v)
    dv = engine.backward(problem, settings, do, q, k, v, forward).dv
    for found, exact in ((forward.o, o), (dv, gradients.dv)):
        error = np.abs(numbers_of(problem, found) - exact)
        np.testing.assert_array_less(error, DTYPES[dtype].unit_roundoff * np.abs(exact) + 1e-5)


@each_engine
def test_logits_beyond_the_largest_float16_do_not_overflow(engine: Engine, settings: Settings) -> None:
    """Scores of 2^18: the first key has all weight, or all keys share it."""
    problem = AttentionProblem.of(32, head_dim=64, dtype="float16", softmax_scale=1.0)
    q = filled("float16", problem.q_shape, 64.0)
    k = filled("float16", problem.k_shape, 64.0)
    v = problem.make_inputs().v
    forward = engine.forward(problem, settings, q, k, v)
    mean = numbers_of(problem, v).mean(axis=2, keepdims=True, dtype=np.float64)
    assert np.abs(numbers_of(problem, forward.o) - mean).max() < 1e-3
    np.testing.assert_allclose(forward.lse, 64.0 * 64 * 64 + np.log(32), rtol=1e-6)
    k[:, :, 1:] = 0.0
    forward = engine.forward(problem, settings, q, k, v)
    np.testing.assert_array_equal(forward.o, np.broadcast_to(v[:, :, :1], v.shape))


@on_every_path
def test_weights_of_many_keys_sum_to_one(dtype: Dtype, path: str) -> None:
    """4096 keys of weight 1/4096: added up in 16 bits the sum would stop at 1/16 or at 1/2."""
    problem = AttentionProblem.of(3, seqlen_k=4096, head_dim=16, dtype=dtype)
    sums_of_ones(problem, Settings(path=path))
    sums_of_ones(problem, Settings(16, 64, path=path))  # by tiles of queries, not as decoding


@dtypes
@pytest.mark.parametrize("engine", ["standard", "numpy"])
def test_weights_of_many_keys_sum_to_one_in_other_engines(engine: str, dtype: Dtype) -> None:
    sums_of_ones(AttentionProblem.of(3, seqlen_k=4096, head_dim=16, dtype=dtype), Settings(), engine)


def sums_of_ones(problem: AttentionProblem, settings: Settings, engine: str = "flash") -> None:
    dtype = problem.dtype
    q, k = filled(dtype, problem.q_shape, 0.0), problem.make_inputs().k
    v, do = filled(dtype, k.shape, 1.0), filled(dtype, problem.q_shape, 1.0)
    forward = get_engine(engine).forward(problem, settings, q, k, v)
    np.testing.assert_array_equal(numbers_of(problem, forward.o), 1.0)
    np.testing.assert_allclose(forward.lse, np.log(4096), rtol=1e-6)
    dv = get_engine(engine).backward(problem, settings, do, q, k, v, forward).dv
    np.testing.assert_array_equal(numbers_of(problem, dv), 3 / 4096)


@on_every_path
def test_gradients_of_many_queries_do_not_saturate(dtype: Dtype, path: str) -> None:
    """dv of one key is the sum of 4096 ones: in bfloat16 the sum would stop at 256."""
    problem = AttentionProblem.of(4096, seqlen_k=1, head_dim=8, dtype=dtype)
    inputs = problem.make_inputs()
    do = filled(dtype, inputs.do.shape, 1.0)
    engine, settings = get_engine("flash"), Settings(path=path, num_threads=2)
    forward = engine.forward(problem, settings, *inputs[:3])
    dv = engine.backward(problem, settings, do, *inputs[:3], forward).dv
    np.testing.assert_array_equal(numbers_of(problem, dv), 4096.0)


@dtypes
@each_engine
def test_subnormal_numbers_are_kept(engine: Engine, settings: Settings, dtype: Dtype) -> None:
    """A row with one key copies its value, the smallest numbers included; and do to dv."""
    entry = DTYPES[dtype]
    # float32's own subnormal numbers start where bfloat16's do: a sum that flushed them would lose these.
    smallest = 2.0**-24 if dtype == "float16" else 2.0**-133
    problem = AttentionProblem.of(1, seqlen_k=1, head_dim=19, dtype=dtype)
    tiny = entry.make(smallest * np.arange(-9, 10.0).reshape(1, 1, 1, 19))
    q, k, _, _ = problem.make_inputs()
    forward = engine.forward(problem, settings, q, k, tiny)
    np.testing.assert_array_equal(numbers_of(problem, forward.o), numbers_of(problem, tiny))
    dv = engine.backward(problem, settings, tiny, q, k, tiny, forward).dv
    np.testing.assert_array_equal(numbers_of(problem, dv), numbers_of(problem, tiny))


@dtypes
@each_engine
def test_values_up_to_the_largest_pass_through(engine: Engine, settings: Settings, dtype: Dtype) -> None:
    problem = AttentionProblem.of(1, seqlen_k=1, head_dim=4, dtype=dtype)
    largest = (2 - 2 * DTYPES[dtype].unit_roundoff) * 2.0 ** (15 if dtype == "float16" else 127)
    v = stored(dtype, np.array([largest, -largest, np.inf, 1.0]).reshape(1, 1, 1, 4))
    q, k, _, _ = problem.make_inputs()
    o = engine.forward(problem, settings, q, k, v).o
    np.testing.assert_array_equal(numbers_of(problem, o), numbers_of(problem, v))


@each_engine
def test_a_gradient_beyond_float16_is_infinite(engine: Engine, settings: Settings) -> None:
    problem = AttentionProblem.of(2, seqlen_k=1, head_dim=4, dtype="float16")
    q, k, v, _ = problem.make_inputs()
    do = filled("float16", q.shape, 60000.0)
    forward = engine.forward(problem, settings, q, k, v)
    dv = engine.backward(problem, settings, do, q, k, v, forward).dv
    np.testing.assert_array_equal(dv, np.inf)


@dtypes
@pytest.mark.parametrize("engine", ["flash", "standard"])
def test_rows_without_keys_are_zero(engine: str, dtype: Dtype) -> None:
    problem = AttentionProblem.of(40, seqlen_k=24, causal=True, mask="float", head_dim=8, dtype=dtype)
    mask = np.zeros((1, 1, 40, 24), np.float32)
    mask[:, :, 30] = -np.inf
    q, k, v, do = problem.make_inputs()
    chosen, extras = get_engine(engine), Extras(mask)
    forward = chosen.forward(problem, Settings(), q, k, v, extras=extras)
    hidden = [*range(16), 30]
    np.testing.assert_array_equal(forward.o[:, :, hidden], 0)
    np.testing.assert_array_equal(forward.lse[:, :, hidden], -np.inf)
    gradients = chosen.backward(problem, Settings(), do, q, k, v, forward, extras=extras)
    np.testing.assert_array_equal(numbers_of(problem, gradients.dq)[:, :, hidden], 0)
    assert np.isfinite(numbers_of(problem, gradients.dk)).all()


@pytest.mark.grid
@pytest.mark.parametrize(
    ("cpu", "features"),
    [("haswell", ""), ("haswell", "+avx2,+fma"), ("generic", "")],
    ids=["haswell", "haswell-without-f16c", "generic"],
)
def test_other_targets_give_float32_rounded_once(cpu: str, features: str, tmp_path: Path) -> None:
    """float16 without F16C is converted by integer operations."""
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": features,
        "FLASHBENCH_CACHE_DIR": str(tmp_path),
    }
    tests = (
        f"{Path(__file__).with_name('test_half_features.py')}::test_results_are_those_of_float32_rounded_once"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider"]
    command += [tests, "-k", "alibi and not scalar"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr
