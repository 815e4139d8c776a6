"""The flash engine's kernels: tiles, tails, strides, threads."""

import threading

import numpy as np
import pytest
from helpers.support import assert_engine_is_exact
from hypothesis import given
from hypothesis import strategies as st

from flashbench.engines import Settings
from flashbench.engines.flash.engine import FlashEngine
from flashbench.problem import AttentionProblem

FLASH = FlashEngine()


def outputs(problem, settings, seed=0):
    """o, lse, dq, dk and dv."""
    q, k, v, do = problem.make_inputs(seed)
    forward = FLASH.forward(problem, settings, q, k, v)
    return [forward.o, forward.lse, *FLASH.backward(problem, settings, do, q, k, v, forward)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 2, 3, 5, 8, 17, 40, 59, 64, 80, 96, 111, 128, 255, 256])
def test_every_head_dim_is_exact(dtype, causal, head_dim):
    other = 257 - head_dim  # head_dim_v differs, and the two meet in the middle of nothing
    problem = AttentionProblem.of(
        37, seqlen_k=45, num_heads=2, head_dim=head_dim, head_dim_v=other, dtype=dtype, causal=causal
    )
    assert_engine_is_exact(FLASH, problem)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("block_q", "block_k"), [(1, 1), (1, 256), (256, 1), (5, 7), (16, 64), (64, 64), (200, 33)]
)
def test_every_block_size_is_exact(block_q, block_k, causal):
    problem = AttentionProblem.of(113, seqlen_k=203, num_heads=2, num_kv_heads=1, head_dim=24, causal=causal)
    assert_engine_is_exact(FLASH, problem, Settings(block_q=block_q, block_k=block_k))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("alignment", ["bottom-right", "top-left"])
@given(
    batch=st.integers(1, 2),
    group=st.integers(1, 3),
    num_kv_heads=st.integers(1, 2),
    seqlen_q=st.integers(1, 70),
    seqlen_k=st.integers(1, 70),
    head_dim=st.integers(1, 40),
    causal=st.booleans(),
    block_q=st.integers(1, 80),
    block_k=st.integers(1, 80),
    threads=st.integers(1, 4),
)
def test_any_shape_is_exact(
    dtype,
    alignment,
    batch,
    group,
    num_kv_heads,
    seqlen_q,
    seqlen_k,
    head_dim,
    causal,
    block_q,
    block_k,
    threads,
):
    problem = AttentionProblem.of(
        seqlen_q,
        seqlen_k=seqlen_k,
        batch=batch,
        num_heads=group * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        causal=causal,
        causal_alignment=alignment,
    )
    assert_engine_is_exact(FLASH, problem, Settings(block_q=block_q, block_k=block_k, num_threads=threads))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(1, 1), (3, 1), (4, 2), (5, 5)])
def test_results_are_the_same_bits_for_any_number_of_threads(causal, heads):
    num_heads, num_kv_heads = heads
    problem = AttentionProblem.of(
        517, num_heads=num_heads, num_kv_heads=num_kv_heads, dtype="float32", causal=causal
    )
    expected = outputs(problem, Settings(block_q=16, block_k=48, num_threads=1))
    for threads in (2, 3, 7, 2):
        actual = outputs(problem, Settings(block_q=16, block_k=48, num_threads=threads))
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seqlen", [16, 128, 129, 512, 1000])
def test_automatic_blocks_give_the_same_bits_for_any_number_of_threads(seqlen):
    problem = AttentionProblem.of(seqlen, num_heads=3, causal=True)
    expected = outputs(problem, Settings(num_threads=1))
    for threads in (2, 5):
        for one, other in zip(outputs(problem, Settings(num_threads=threads)), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_many_python_threads_may_call_at_once():
    problems = [AttentionProblem.of(200 + 7 * i, num_heads=2, causal=bool(i % 2)) for i in range(6)]
    expected = [outputs(problem, Settings()) for problem in problems]
    wrong = []

    def worker(index):
        for _ in range(5):
            actual = outputs(problems[index], Settings(num_threads=3))
            if not all(np.array_equal(a, b) for a, b in zip(actual, expected[index], strict=True)):
                wrong.append(index)

    workers = [threading.Thread(target=worker, args=(i,)) for i in range(len(problems))]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("engine_input", ["q", "k", "v", "do"])
@pytest.mark.parametrize("layout", ["swapped-heads", "every-other-row", "reversed", "broadcast", "fortran"])
def test_any_strides_give_the_same_result_as_a_contiguous_copy(layout, engine_input):
    problem = AttentionProblem.of(65, batch=2, num_heads=3, head_dim=20, causal=True)
    inputs = problem.make_inputs(3)._asdict()
    x = inputs[engine_input]
    if layout == "swapped-heads":
        strided = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    elif layout == "every-other-row":
        strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    elif layout == "reversed":
        strided = x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1]
    elif layout == "broadcast":
        strided = np.broadcast_to(x[:1, :1], x.shape)
    else:
        strided = np.asfortranarray(x)
    results = []
    for value in (strided, np.ascontiguousarray(strided)):
        q, k, v, do = {**inputs, engine_input: value}.values()
        forward = FLASH.forward(problem, Settings(), q, k, v)
        gradients = FLASH.backward(problem, Settings(), do, q, k, v, forward)
        results.append([forward.o, forward.lse, *gradients])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
