"""float32 as sums of three bfloat16 numbers: exact parts, errors like those of multiply-adds, refusals."""

import numpy as np
import pytest
from helpers.amx import SPLIT_KINDS
from helpers.feature_checks import feature_combinations, problem_with
from helpers.feature_problems import random_extras
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from flashbench.codegen.ir import const, full_vector, load, store
from flashbench.codegen.pointers import pointer
from flashbench.engines import Settings, launch
from flashbench.engines.flash.engine import FlashEngine
from flashbench.engines.flash.plan import path_for
from flashbench.engines.launch import CallMemory
from flashbench.extras import NO_EXTRAS
from flashbench.kernels.flash.gather import REFUSED
from flashbench.kernels.products.paths import PATHS
from flashbench.kernels.products.split import CUT_THIRDS, LARGEST, SMALLEST, THIRDS, splits_exactly
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference

FLASH = FlashEngine()
ZERO = np.float32(0)
VECTOR = full_vector(ir.FloatType())


def splitter(split):
    @intrinsic
    def put(typingctx, x, parts):
        def codegen(context, builder, signature, args):
            value = load(builder, args[0], const(0), VECTOR)
            for number, part in enumerate(split.of(builder, value)):
                store(builder, part, args[1], const(number * VECTOR.count))
            return context.get_dummy_value()

        return types.void(x, x), codegen

    @njit
    def run(zero, x, count, parts):
        for i in range(count):
            put(pointer(zero, x + 4 * i * VECTOR_COUNT), pointer(zero, parts + 12 * i * VECTOR_COUNT))

    return run


VECTOR_COUNT = VECTOR.count
RUN = {split.name: splitter(split) for split in (THIRDS, CUT_THIRDS)}


def parts_of(name, x):
    parts = np.empty((x.size // VECTOR.count, 3, VECTOR.count), np.float32)
    RUN[name](ZERO, x.ctypes.data, len(parts), parts.ctypes.data)
    return [parts[:, part].ravel() for part in range(3)]


def any_numbers(seed, count=4096):
    """float32 numbers of all sizes that are split, 0, powers of 2 and their neighbours among them."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-1, 1], count) * rng.uniform(1, 2, count) * 2.0 ** rng.integers(-98, 59, count)
    x[:64] = 0
    x[64:512] = 2.0 ** rng.integers(-99, 60, 448)
    x = x.astype("float32")
    x[256:384] = np.nextafter(x[256:384], np.float32(0))
    x[384:512] = np.nextafter(x[384:512], np.float32(np.inf))
    return x


@pytest.mark.parametrize("name", list(RUN))
@given(seed=st.integers(0, 9999))
def test_every_number_is_the_sum_of_its_parts(name, seed):
    x = any_numbers(seed)
    parts = parts_of(name, x)
    np.testing.assert_array_equal(sum(part.astype("float64") for part in parts), x.astype("float64"))
    for part in parts:  # bfloat16 keeps every bit
        assert not (part.view(np.uint32) & 0xFFFF).any()
    slack = 1 if name == "thirds" else 2
    assert (np.abs(parts[1]) <= slack * 2.0**-8 * np.abs(x)).all()
    assert (np.abs(parts[2]) <= slack * 2.0**-16 * np.abs(x)).all()


@njit
def within(zero, x, row, rows, columns):
    return splits_exactly(pointer(zero, x), row, rows, columns)


@pytest.mark.parametrize("columns", [1, 5, 16, 31, 64])
@pytest.mark.parametrize(
    ("number", "fits"),
    [
        (0.0, True), (-0.0, True), (SMALLEST, True), (-SMALLEST, True), (LARGEST, True), (-LARGEST, True),
        (np.nextafter(np.float32(SMALLEST), np.float32(0)), False), (1e-40, False), (np.inf, False),
        (np.nextafter(np.float32(LARGEST), np.float32(np.inf)), False), (np.nan, False), (-np.inf, False),
    ],
)  # fmt: skip
def test_a_number_that_does_not_split_is_found_anywhere(columns, number, fits):
    for row, column in ((0, 0), (2, columns - 1), (1, columns // 2)):
        x = np.ones((3, columns + 3), np.float32)
        x[:, columns:] = np.nan  # not part of the rows
        x[row, column] = number
        assert within(ZERO, x.ctypes.data, columns + 3, 3, columns) is fits


def results(problem, inputs, kind, extras=NO_EXTRAS, **settings):
    q, k, v, do = inputs
    chosen = Settings(path=kind, **settings)
    forward = FLASH.forward(problem, chosen, q, k, v, extras=extras)
    gradients = FLASH.backward(
        problem, chosen, do, q, k, v, forward, extras=extras, mask_gradient=problem.mask == "float"
    )
    named = {name: getattr(gradients, name) for name in ("dq", "dk", "dv", "dsinks", "dmask")}
    return {"o": forward.o, "lse": forward.lse, **named}


def exact_results(problem, inputs, extras=NO_EXTRAS):
    q, k, v, do = inputs
    o, lse = attention_reference(problem, q, k, v, extras)
    gradients = attention_backward_reference(problem, do, q, k, v, extras)
    named = {name: getattr(gradients, name) for name in ("dq", "dk", "dv", "dsinks", "dmask")}
    return {"o": o, "lse": lse, **named}


def assert_as_exact_as_fma(problem, kind, inputs=None, extras=NO_EXTRAS, roundings=16, **settings):
    """Errors of each result like those of multiply-adds, or of some roundings.

    In the mean they are smaller. The largest one of a small result is luck on both sides.
    """
    inputs = inputs or problem.make_inputs()
    exact = exact_results(problem, inputs, extras)
    found, fma = (results(problem, inputs, path, extras, **settings) for path in (kind, "fma"))
    for name, wanted in exact.items():
        if wanted is None:
            continue
        finite = np.isfinite(wanted)
        np.testing.assert_array_equal(np.isfinite(found[name]), finite)
        errors, allowed = (np.append(np.abs(x[name][finite] - wanted[finite]), 0.0) for x in (found, fma))
        few = roundings * 2.0**-24 * max(1.0, np.max(np.abs(wanted[finite]), initial=0.0))
        assert np.max(errors) <= max(3 * np.max(allowed), few), name
        assert np.linalg.norm(errors) <= max(1.5 * np.linalg.norm(allowed), few * wanted.size**0.5), name


@pytest.mark.parametrize("kind", SPLIT_KINDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 3, 16, 31, 33, 64, 80, 128, 200])
def test_every_head_dim_is_exact(kind, causal, head_dim):
    problem = AttentionProblem.of(
        70, seqlen_k=131, num_heads=2, head_dim=head_dim, head_dim_v=257 - head_dim, causal=causal,
        dtype="float32",
    )  # fmt: skip
    assert_as_exact_as_fma(problem, kind)


@pytest.mark.parametrize("kind", SPLIT_KINDS)
@pytest.mark.parametrize("combination", feature_combinations())
def test_features_are_exact(kind, combination):
    problem = problem_with(combination, dtype="float32")
    assert_as_exact_as_fma(problem, kind, extras=random_extras(problem), block_q=24, block_k=20)


@pytest.mark.parametrize("kind", SPLIT_KINDS)
@given(
    batch=st.integers(1, 2), group=st.integers(1, 3), seqlen_q=st.integers(1, 90),
    seqlen_k=st.integers(2, 120), head_dim=st.integers(1, 80), causal=st.booleans(),
    block_q=st.integers(1, 64), block_k=st.integers(1, 80), threads=st.integers(1, 3),
)  # fmt: skip
def test_any_shape_is_exact(
    kind, batch, group, seqlen_q, seqlen_k, head_dim, causal, block_q, block_k, threads
):
    problem = AttentionProblem.of(
        seqlen_q, seqlen_k=seqlen_k, batch=batch, num_heads=2 * group, num_kv_heads=2, head_dim=head_dim,
        dtype="float32", causal=causal,
    )  # fmt: skip
    assert_as_exact_as_fma(problem, kind, roundings=64, block_q=block_q, block_k=block_k, num_threads=threads)


@pytest.mark.parametrize("kind", SPLIT_KINDS)
@given(seqlen_q=st.integers(1, 90), head_dim=st.integers(1, 80), block_q=st.integers(1, 64))
def test_the_gradient_of_a_single_key_is_its_roundings(kind, seqlen_q, head_dim, block_q):
    """dq and dk are 0, as dp = delta: multiply-adds round both alike, products of parts do not."""
    problem = AttentionProblem.of(seqlen_q, seqlen_k=1, num_heads=1, head_dim=head_dim, dtype="float32")
    q, k, v, do = inputs = problem.make_inputs()
    found = results(problem, inputs, kind, block_q=block_q)
    np.testing.assert_allclose(found["o"], np.broadcast_to(v, q.shape), rtol=2.0**-22)
    error = 8 * 2.0**-24 * problem.scale * (np.abs(do) @ np.abs(v).swapaxes(2, 3)).astype("float64")
    assert (np.abs(found["dq"]) <= error * np.abs(k)).all()
    assert (np.abs(found["dk"]) <= np.sum(error * np.abs(q), axis=2, keepdims=True)).all()
    np.testing.assert_allclose(found["dv"], do.sum(axis=2, keepdims=True, dtype="float64"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", SPLIT_KINDS)
@pytest.mark.parametrize("scale", [2, 5])
def test_large_scores_are_exact(kind, scale):
    problem = AttentionProblem.of(300, num_heads=2, head_dim=64, dtype="float32")
    inputs = problem.make_inputs()
    q, k = (x * np.float32(scale) for x in (inputs.q, inputs.k))
    assert_as_exact_as_fma(problem, kind, inputs._replace(q=q, k=k))


@pytest.mark.parametrize("kind", SPLIT_KINDS)
@pytest.mark.parametrize("seqlen", [40, 300])
@pytest.mark.parametrize("name", ["q", "k", "v", "do"])
@pytest.mark.parametrize("number", [1e-35, 1e25, np.inf, np.nan])
def test_a_call_with_a_number_that_does_not_split_is_computed_by_multiply_adds(kind, seqlen, name, number):
    problem = AttentionProblem.of(
        seqlen, num_heads=4, num_kv_heads=2, head_dim=24, dtype="float32", causal=True
    )
    inputs = problem.make_inputs()
    heads = getattr(inputs, name).shape[1]
    getattr(inputs, name)[0, heads - 1, seqlen - 7, 5] = number
    q, k, v, do = inputs
    chosen = [Settings(path=path, num_threads=2) for path in (kind, "fma")]
    found, fma = (FLASH.forward(problem, settings, q, k, v) for settings in chosen)
    if name != "do":
        np.testing.assert_array_equal(found.o, fma.o)
        np.testing.assert_array_equal(found.lse, fma.lse)
    found, fma = (FLASH.backward(problem, settings, do, q, k, v, fma) for settings in chosen)
    for gradient in ("dq", "dk", "dv"):
        np.testing.assert_array_equal(getattr(found, gradient), getattr(fma, gradient))


@pytest.mark.parametrize("kind", SPLIT_KINDS)
def test_a_thread_refuses_a_call_once(kind, monkeypatch):
    """The counter is not to overflow in a long call: a sum of one refusal for each tile could."""
    found = []

    class Memory(CallMemory):
        @property
        def refused(self):
            found.append(self.table[(self.tickets - self.address) // 8 + 1])
            return super().refused

    monkeypatch.setattr(launch, "CallMemory", Memory)
    problem = AttentionProblem.of(200, num_heads=4, dtype="float32")
    q, k, v, _ = problem.make_inputs()
    q[:] = k[:] = v[:] = np.inf
    FLASH.forward(problem, Settings(path=kind, num_threads=2, block_q=16, block_k=16), q, k, v)
    assert REFUSED <= found[0] < 3 * REFUSED


@pytest.mark.parametrize("kind", SPLIT_KINDS)
def test_results_are_the_same_bits_for_any_number_of_threads(kind):
    problem = AttentionProblem.of(300, num_heads=4, num_kv_heads=2, dtype="float32", causal=True)
    inputs = problem.make_inputs()
    one, three = (
        results(problem, inputs, kind, block_q=32, block_k=64, num_threads=threads) for threads in (1, 3)
    )
    for name, wanted in one.items():
        np.testing.assert_array_equal(three[name], wanted)


def test_few_queries_take_multiply_adds():
    problem = AttentionProblem.of(400, dtype="float32")
    for direction in ("fwd", "bwd"):
        assert path_for(problem, direction, None).product.name == "fma"
        chosen = path_for(problem, direction, "amx_split-emulated")
        assert chosen.product.name == "amx_split-emulated"
    assert min(PATHS["amx_split"].least_readers) > 400
