"""Every optional feature in float16 and bfloat16, by every engine of ours that has it, on every path."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from helpers.feature_checks import feature_combinations, poisoned, problem_with
from helpers.feature_problems import problems, random_extras
from helpers.half_checks import (
    HALVES,
    assert_as_exact_as_naive,
    assert_float32_rounded,
    numbers_of,
    outputs_of,
    paths_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import Engine, Settings, get_engine
from flashbench.extras import make_extras
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import attention_backward_reference, attention_reference


class Run(NamedTuple):
    """An engine and how to run it."""

    engine: Engine
    settings: Settings


FLASH, STANDARD, NUMPY = (get_engine(name) for name in ("flash", "standard", "numpy"))
# These compute in float32 on the CPU's vectors, in the same order as they compute float32.
IN_FLOAT32 = {
    "flash": Run(FLASH, Settings(16, 32, path="convert")),
    "scalar": Run(FLASH, Settings(use_simd=False)),
    "standard": Run(STANDARD, Settings()),
}
NO_PAGES = frozenset({"block_table"})
dtypes = pytest.mark.parametrize("dtype", HALVES)


def flash_runs(dtype: Dtype) -> dict[str, Run]:
    """The flash engine on each path of the dtype; emulated only where the real instructions are not."""
    paths = paths_of(dtype)
    emulated = {f"{path}-emulated" for path in paths}
    return {f"flash-{path}": Run(FLASH, Settings(path=path)) for path in paths if path not in emulated}


def each(*names: str) -> pytest.MarkDecorator:
    """Parametrise by dtype and run: the flash engine on each path, and the named ones."""
    params = [
        pytest.param(dtype, run, id=f"{name}-{dtype}")
        for dtype in HALVES
        for name, run in {**flash_runs(dtype), **{name: IN_FLOAT32[name] for name in names}}.items()
    ]
    return pytest.mark.parametrize(("dtype", "run"), params)


@pytest.mark.grid
@dtypes
@pytest.mark.parametrize("name", IN_FLOAT32)
@pytest.mark.parametrize("combination", feature_combinations())
def test_results_are_those_of_float32_rounded_once(combination: str, name: str, dtype: Dtype) -> None:
    engine, chosen = IN_FLOAT32[name]
    for causal in (False, True):
        problem = problem_with(combination, causal=causal, dtype=dtype)
        assert_float32_rounded(engine, problem, random_extras(problem), chosen)


@pytest.mark.grid
@dtypes
@pytest.mark.parametrize("name", IN_FLOAT32)
@pytest.mark.parametrize("combination", feature_combinations())
def test_nan_reaches_the_rows_that_it_reaches_in_float32(combination: str, name: str, dtype: Dtype) -> None:
    engine, chosen = IN_FLOAT32[name]
    problem = problem_with(combination, dtype=dtype)
    assert_float32_rounded(engine, problem, random_extras(problem), chosen, poisoned(problem))


@pytest.mark.grid
@dtypes
@pytest.mark.parametrize("name", IN_FLOAT32)
@settings(max_examples=200)
@given(data=st.data(), seed=st.integers(0, 100))
def test_any_features_are_those_of_float32_rounded_once(
    name: str, dtype: Dtype, data: Any, seed: int
) -> None:
    engine, chosen = IN_FLOAT32[name]
    problem = data.draw(problems(without=NO_PAGES, longest=70, widest=9, dtype=dtype))
    inputs = poisoned(problem, seed) if data.draw(st.booleans()) else problem.make_inputs(seed)
    if name == "flash":
        sizes = st.integers(1, 40)
        chosen = chosen._replace(block_q=data.draw(sizes), block_k=data.draw(sizes))
    chosen = chosen._replace(num_threads=data.draw(st.integers(1, 3)))
    assert_float32_rounded(engine, problem, random_extras(problem, seed), chosen, inputs)


LONG: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (70, 31)},
    "causal-window": {"window": (130, None), "causal": True},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool-mask": {"mask": "bool"},
    "float-mask": {"mask": "float"},
    "float-mask-of-heads": {"mask": "float", "mask_axes": "hqk"},
    "float-mask-of-keys": {"mask": "float", "mask_axes": "k"},
    "block-mask": {"mask": "block"},
    "block-mask-of-odd-blocks": {"mask": "block", "mask_block_q": 19, "mask_block_k": 37},
    "key-lengths": {"key_lengths": (203, 0)},
    "varlen": {"query_lengths": (113, 40), "key_lengths": (9, 160)},
    "dropout": {"dropout": 0.2, "dropout_seed": 2**63 + 5},
    "one-key-head": {"num_kv_heads": 1},
    "narrow": {"head_dim": 1, "head_dim_v": 1},
    "odd": {"head_dim": 33, "head_dim_v": 65},
    "wide": {"head_dim": 256, "head_dim_v": 255},
    "everything": {
        "window": (90, 40),
        "softcap": 5.0,
        "alibi": True,
        "sinks": True,
        "mask": "float",
        "key_lengths": (203, 77),
        "dropout": 0.1,
    },
}


def long_problem(name: str, dtype: Dtype, seqlen_q: int = 163) -> AttentionProblem:
    shape = {"batch": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 40, "head_dim_v": 24}
    return AttentionProblem.of(seqlen_q, seqlen_k=203, dtype=dtype, **{**shape, **LONG[name]})


@each("scalar", "standard")
@pytest.mark.parametrize("name", LONG)
def test_errors_are_at_most_those_of_a_naive_computation(name: str, dtype: Dtype, run: Run) -> None:
    problem = long_problem(name, dtype)
    assert_as_exact_as_naive(run.engine, problem, run.settings)


@dtypes
@pytest.mark.parametrize("name", ["plain", "causal", "one-key-head", "narrow", "odd", "wide"])
def test_numpy_is_as_exact(name: str, dtype: Dtype) -> None:
    problem = long_problem(name, dtype)
    assert_as_exact_as_naive(NUMPY, problem, Settings())


@each("scalar", "standard")
@pytest.mark.parametrize("size", [5.0, 100.0])
def test_errors_with_large_inputs(size: float, dtype: Dtype, run: Run) -> None:
    if dtype == "float16" and size == 100:
        size = 20.0  # the naive computation's scores must stay below 65504
    problem = AttentionProblem.of(256, num_heads=2, dtype=dtype, causal=True)
    assert_as_exact_as_naive(run.engine, problem, run.settings, size)


DECODING: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (300, 5)},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool-mask": {"mask": "bool", "mask_axes": "bhqk"},
    "float-mask": {"mask": "float", "mask_axes": "bk"},
    "key-lengths": {"key_lengths": (1500, 0)},
    "varlen": {"query_lengths": (1, 0), "key_lengths": (1111, 300)},
}
PAGED: dict[str, dict[str, Any]] = {
    "pages": {"key_lengths": (1500, 31), "page_size": 16},
    "odd-pages": {"key_lengths": (0, 1503), "page_size": 7},
}


def decoding(seqlen_q: int, dtype: Dtype, **features: Any) -> AttentionProblem:
    shape = {"batch": 2, "num_heads": 6, "num_kv_heads": 2, "head_dim": 40, "head_dim_v": 24}
    return AttentionProblem.of(seqlen_q, seqlen_k=1503, dtype=dtype, **shape, **features)


@pytest.mark.grid
@each("scalar", "standard")
@pytest.mark.parametrize("name", DECODING)
@pytest.mark.parametrize("seqlen_q", [1, 3, 16])
def test_few_queries(seqlen_q: int, name: str, dtype: Dtype, run: Run) -> None:
    problem = decoding(seqlen_q, dtype, **DECODING[name])
    assert_as_exact_as_naive(run.engine, problem, run.settings)


@each()
@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize("seqlen_q", [1, 3, 16, 40])
def test_keys_in_pages(seqlen_q: int, name: str, dtype: Dtype, run: Run) -> None:
    problem = decoding(seqlen_q, dtype, **PAGED[name])
    assert_as_exact_as_naive(run.engine, problem, run.settings)
    loops = Settings(use_simd=False)
    assert_float32_rounded(FLASH, problem, make_extras(problem), loops)


@dtypes
@pytest.mark.parametrize("name", [*DECODING, *PAGED])
def test_few_queries_are_those_of_float32_rounded_once(name: str, dtype: Dtype) -> None:
    problem = decoding(3, dtype, **(DECODING | PAGED)[name])
    assert_float32_rounded(FLASH, problem, make_extras(problem), Settings(block_k=64, path="convert"))


# Their threads add to the same dk, dv and dmask, or share masks and sequences.
WITH_SHARED_SUMS = (
    "causal",
    "one-key-head",
    "float-mask-of-heads",
    "float-mask-of-keys",
    "varlen",
    "everything",
)


@each("standard")
@pytest.mark.parametrize("name", WITH_SHARED_SUMS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str, dtype: Dtype, run: Run) -> None:
    problem = long_problem(name, dtype)
    extras, inputs = random_extras(problem), problem.make_inputs()
    expected = outputs_of(run.engine, problem, run.settings._replace(num_threads=1), inputs, extras)
    for threads in (2, 7):
        found = outputs_of(run.engine, problem, run.settings._replace(num_threads=threads), inputs, extras)
        for what, right in expected.items():
            np.testing.assert_array_equal(found[what], right, what)


@each("scalar", "standard")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "mask", ["causal", "window", "bool-mask", "float-mask", "block-mask", "key-lengths", "varlen"]
)
def test_what_is_not_finite_reaches_just_the_rows_that_see_it(
    mask: str, value: float, dtype: Dtype, run: Run
) -> None:
    problem = long_problem(mask, dtype)
    extras = random_extras(problem)
    bad, inputs = DTYPES[dtype].make(np.array(value)), problem.make_inputs()
    inputs.k[0, :, 30, 3] = inputs.v[0, :, 60, 5] = bad
    q, k, v, do = inputs
    o, _ = attention_reference(problem, q, k, v, extras)
    gradients = attention_backward_reference(problem, do, q, k, v, extras)
    found = outputs_of(run.engine, problem, run.settings, inputs, extras)
    for what, right in {"o": o, **gradients._asdict()}.items():
        np.testing.assert_array_equal(np.isnan(numbers_of(problem, found[what])), np.isnan(right), what)


@each("standard")
@pytest.mark.parametrize("name", ["plain", "causal", "varlen", "sinks"])
def test_any_layout_gives_the_same_bits(name: str, dtype: Dtype, run: Run) -> None:
    """(batch, seqlen, heads, head_dim) in memory, rows with a gap, heads that share one k, an odd start."""
    problem = msgspec.structs.replace(long_problem(name, dtype), num_kv_heads=4)
    extras, inputs = make_extras(problem), problem.make_inputs()
    expected = outputs_of(run.engine, problem, run.settings, inputs, extras)

    def with_gaps(x: np.ndarray) -> np.ndarray:
        wide = np.zeros((*x.shape[:3], x.shape[3] + 3), x.dtype)
        wide[..., 1:-2] = x
        return wide[..., 1:-2]

    for change in (
        by_rows,
        with_gaps,
        lambda x: by_rows(with_gaps(x)),
        lambda x: x[..., ::-1].copy()[..., ::-1],
    ):
        found = outputs_of(run.engine, problem, run.settings, Inputs(*map(change, inputs)), extras)
        for what, right in expected.items():
            if what == "dsinks":  # NumPy adds up its terms, in an order that depends on the layout
                np.testing.assert_allclose(found[what], right, rtol=1e-5, atol=1e-7)
            else:
                np.testing.assert_array_equal(found[what], right, what)


def by_rows(x: np.ndarray) -> np.ndarray:
    """The same numbers as a view of a (batch, seqlen, heads, head_dim) array, as models have them."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
