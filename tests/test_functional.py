"""attention and attention_backward: exact in every engine, for every accepted shape and array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.support import assert_close, available_engines
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flashbench.arguments import find_engine
from flashbench.engines import AttentionGradients
from flashbench.errors import UnsupportedError
from flashbench.functional import AttentionOutput, attention, attention_backward
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import tolerance_for

# Engines with a backward. Tests of the others are next to the code that calls them.
EVERY_ENGINE = pytest.mark.parametrize(
    "engine",
    [
        name
        for name in available_engines()
        if find_engine(name).unsupported(AttentionProblem.of(1), "bwd") is None
    ],
)

# What the audit found wrong is not asked for again: JAX computes the softmax of float64 in float32.
BEST_DTYPE = {"jax": "float32"}


def attention_and_lse(*arrays: np.ndarray, engine: str, **options: Any) -> AttentionOutput:
    """The engine's o and lse. If it gives no lse, another engine's lse, which is as good for its backward."""
    try:
        return attention(*arrays, engine=engine, return_lse=True, **options)
    except UnsupportedError:
        o = attention(*arrays, engine=engine, **options)
        return AttentionOutput(o, attention(*arrays, engine="flash", return_lse=True, **options).lse)


@st.composite
def problems(draw: st.DrawFn) -> AttentionProblem:
    """Any small problem, with every rule of `AttentionProblem` at its limit."""
    num_kv_heads = draw(st.integers(1, 3))
    length = st.one_of(st.integers(1, 5), st.integers(6, 70))
    return AttentionProblem.of(
        draw(length),
        seqlen_k=draw(length),
        batch=draw(st.integers(1, 2)),
        num_heads=num_kv_heads * draw(st.integers(1, 3)),
        num_kv_heads=num_kv_heads,
        head_dim=draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 255, 256]))),
        head_dim_v=draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 255, 256]))),
        dtype=draw(st.sampled_from(["float64", "float32"])),
        causal=draw(st.booleans()),
        causal_alignment=draw(st.sampled_from(["bottom-right", "top-left"])),
        softmax_scale=draw(st.sampled_from([None, 0.0, 0.1, -0.1])),
    )


blocks = st.none() | st.integers(1, 80)


@EVERY_ENGINE
@given(
    problem=problems(),
    block_q=blocks,
    block_k=blocks,
    num_threads=st.sampled_from([None, 1, 2, 3]),
    use_simd=st.booleans(),
)
@example(  # bottom-right the one query sees all keys; libraries that align top-left must be told otherwise
    problem=AttentionProblem.of(1, seqlen_k=2, causal=True),
    block_q=None,
    block_k=None,
    num_threads=None,
    use_simd=True,
)
@settings(max_examples=40, deadline=None)
def test_any_problem_with_any_blocks_and_threads_is_exact(
    engine: str,
    problem: AttentionProblem,
    block_q: int | None,
    block_k: int | None,
    num_threads: int | None,
    use_simd: bool,
) -> None:
    if problem.dtype == "float64":
        problem = msgspec.structs.replace(problem, dtype=BEST_DTYPE.get(engine, "float64"))
    if find_engine(engine).unsupported(problem, "bwd"):
        return
    q, k, v, do = problem.make_inputs()
    options = {
        "softmax_scale": problem.softmax_scale,
        "causal": problem.causal,
        "causal_alignment": problem.causal_alignment,
        "engine": engine,
        "block_q": block_q,
        "block_k": block_k,
        "num_threads": num_threads,
        "use_simd": use_simd,
    }
    o, lse = attention_and_lse(q, k, v, **options)
    gradients = attention_backward(do, q, k, v, o, lse, **options)
    expected_o, expected_lse = attention_reference(problem, q, k, v)
    assert_close(o, expected_o, tolerance_for(problem.dtype, "o"))
    assert_close(lse, expected_lse, tolerance_for(problem.dtype, "lse"))
    for actual, expected in zip(gradients, attention_backward_reference(problem, do, q, k, v), strict=True):
        assert actual.dtype == q.dtype
        assert_close(actual, expected, tolerance_for(problem.dtype, "bwd"))


@pytest.mark.parametrize("engine", ["flash", "standard"])  # the others multiply masked values by zero
@given(
    problem=problems(),
    name=st.sampled_from(["q", "k", "v", "do"]),
    where=st.floats(0.0, 1.0, exclude_max=True),
    block_q=blocks,
    block_k=blocks,
    use_simd=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_nan_anywhere_reaches_just_what_sees_it(
    engine: str,
    problem: AttentionProblem,
    name: str,
    where: float,
    block_q: int | None,
    block_k: int | None,
    use_simd: bool,
) -> None:
    inputs = problem.make_inputs()
    poisoned = getattr(inputs, name)
    poisoned.flat[int(where * poisoned.size)] = np.nan
    q, k, v, do = inputs
    options = {
        "softmax_scale": problem.softmax_scale,
        "causal": problem.causal,
        "causal_alignment": problem.causal_alignment,
        "engine": engine,
        "block_q": block_q,
        "block_k": block_k,
        "use_simd": use_simd,
    }
    o, lse = attention(q, k, v, return_lse=True, **options)
    gradients = attention_backward(do, q, k, v, o, lse, **options)
    expected = (*attention_reference(problem, q, k, v), *attention_backward_reference(problem, do, q, k, v))
    for actual, exact in zip((o, lse, *gradients), expected, strict=True):
        assert_close(actual, exact, tolerance_for(problem.dtype, "bwd"))


@EVERY_ENGINE
def test_three_dimensions_are_one_head(engine: str) -> None:
    q, k, v, do = AttentionProblem.of(9, seqlen_k=7, batch=3, head_dim=5).make_inputs()
    four = attention_and_lse(q, k, v, engine=engine)
    three = attention_and_lse(q[:, 0], k[:, 0], v[:, 0], engine=engine)
    assert three.o.shape == (3, 9, 5)
    assert three.lse.shape == (3, 9)
    assert np.array_equal(three.o, four.o[:, 0])
    assert np.array_equal(three.lse, four.lse[:, 0])
    of_four = attention_backward(do, q, k, v, *four, engine=engine)
    of_three = attention_backward(do[:, 0], q[:, 0], k[:, 0], v[:, 0], *three, engine=engine)
    for x, y in zip(of_three, of_four, strict=True):
        assert np.array_equal(x, y[:, 0])


def wide_stride(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 3, axis=-1)[..., ::3]


def backwards(x: np.ndarray) -> np.ndarray:
    return x[..., ::-1].copy()[..., ::-1]


def misaligned(x: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "wide-stride": wide_stride,
    "backwards": backwards,
    "backwards-rows": lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
    "fortran": np.asfortranarray,
    "sequence-first": lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
    "misaligned": misaligned,
    "read-only": read_only,
}


@EVERY_ENGINE
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_strides_and_alignment_do_not_matter(engine: str, layout: Callable[[np.ndarray], np.ndarray]) -> None:
    dtype = BEST_DTYPE.get(engine, "float64")
    problem = AttentionProblem.of(19, seqlen_k=23, num_heads=4, num_kv_heads=2, head_dim=12, dtype=dtype)
    inputs = problem.make_inputs()
    q, k, v, do = map(layout, inputs)
    o, lse = attention_and_lse(q, k, v, engine=engine)
    gradients = attention_backward(do, q, k, v, layout(o), wide_stride(lse), engine=engine)
    assert_close(o, attention_reference(problem, *inputs[:3])[0], tolerance_for(dtype, "o"))
    for actual, expected in zip(
        gradients, attention_backward_reference(problem, inputs.do, *inputs[:3]), strict=True
    ):
        assert_close(actual, expected, tolerance_for(dtype, "bwd"))
    for changed, original in zip((q, k, v, do), inputs, strict=True):
        assert np.array_equal(changed, original)  # inputs are only read


@EVERY_ENGINE
def test_broadcast_keys_are_read_in_place(engine: str) -> None:
    q, k, v, _ = AttentionProblem.of(5, num_heads=3, num_kv_heads=1, head_dim=4).make_inputs()
    spread = (np.broadcast_to(x, (1, 3, 5, 4)) for x in (k, v))
    assert_close(attention(q, *spread, engine=engine), attention(q, k, v, engine=engine), 1e-14)


def test_an_engine_that_gives_no_lse_says_so_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = find_engine("numpy")
    forward = numpy.forward
    monkeypatch.setattr(
        numpy, "forward", lambda *arguments, **options: forward(*arguments, **options)._replace(lse=None)
    )
    q, k, v, _ = AttentionProblem.of(4).make_inputs()
    with pytest.raises(UnsupportedError, match="engine 'numpy' gives no lse for this problem"):
        attention(q, k, v, engine="numpy", return_lse=True)
    assert attention(q, k, v, engine="numpy").shape == q.shape


def test_arrays_of_other_libraries_come_through_dlpack() -> None:
    torch = pytest.importorskip("torch")
    q, k, v, do = AttentionProblem.of(6, num_heads=2, head_dim=4, dtype="float32").make_inputs()
    tensors = [torch.from_numpy(x) for x in (q, k, v, do)]
    o, lse = attention(*tensors[:3], engine="numpy", return_lse=True)
    assert type(o) is np.ndarray
    assert np.array_equal(o, attention(q, k, v, engine="numpy"))
    gradients = attention_backward(
        tensors[3], *tensors[:3], torch.from_numpy(o), torch.from_numpy(lse), engine="numpy"
    )
    expected = attention_backward(do, q, k, v, o, lse, engine="numpy")
    for x, y in zip(gradients, expected, strict=True):
        assert np.array_equal(x, y)


def test_a_tensor_that_requires_grad_is_refused_by_name() -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"k \(Tensor\) cannot be shared through DLPack: .*detach"):
        attention(x, x.clone().requires_grad_(), x)


def test_memory_mapped_arrays_are_read_in_place(tmp_path: Path) -> None:
    q, k, v, _ = AttentionProblem.of(6, head_dim=4).make_inputs()
    np.save(tmp_path / "q.npy", q)
    mapped = np.load(tmp_path / "q.npy", mmap_mode="r")
    assert np.array_equal(attention(mapped, k, v, engine="numpy"), attention(q, k, v, engine="numpy"))


def test_numbers_of_numpy_are_numbers() -> None:
    x = np.ones((1, 2, 3))
    o = attention(
        x,
        x,
        x,
        softmax_scale=np.float32(0.5),
        causal=np.bool_(True),
        block_q=np.int64(2),
        num_threads=np.int32(1),
        engine="numpy",
    )
    assert np.array_equal(o, x)


def test_results_have_names() -> None:
    x = np.ones((1, 2, 3))
    result = attention(x, x, x, engine="numpy", return_lse=True)
    assert isinstance(result, AttentionOutput)
    assert result._fields == ("o", "lse")
    gradients = attention_backward(x, x, x, x, *result, engine="numpy")
    assert isinstance(gradients, AttentionGradients)
    assert gradients._fields == ("dq", "dk", "dv")
