"""float16 and bfloat16 at the door of the library: which arrays it takes, and what it returns."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flashbench
from flashbench.arguments import prepare
from flashbench.arguments.arrays import as_array, dtype_of
from flashbench.arguments.bfloat16 import BFLOAT16, as_patterns
from flashbench.errors import AttentionError, EngineError

BF16, F16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
HALVES = pytest.mark.parametrize("dtype", [F16, BF16], ids=["float16", "bfloat16"])
SHAPE = (2, 4, 9, 8)


def numbers(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def in_halves(dtype: np.dtype) -> list[np.ndarray]:
    return [numbers(seed=seed).astype(dtype) for seed in range(4)]


@HALVES
def test_results_have_the_dtype_of_the_inputs_and_lse_is_float32(dtype: np.dtype) -> None:
    q, k, v, do = in_halves(dtype)
    o, lse = flashbench.attention(q, k, v, causal=True, return_lse=True)
    assert (o.dtype, lse.dtype) == (dtype, F32)
    gradients = flashbench.attention_backward(do, q, k, v, o, lse, causal=True)
    assert [x.dtype for x in gradients] == [dtype] * 3
    assert o.shape == q.shape


@HALVES
@pytest.mark.parametrize("three_d", [False, True])
def test_values_are_those_of_float64_within_the_rounding_of_results(dtype: np.dtype, three_d: bool) -> None:
    arrays = [x[:, 0] if three_d else x for x in in_halves(dtype)]
    exact = [x.astype(np.float64) for x in arrays]
    o, lse = flashbench.attention(*arrays[:3], return_lse=True)
    right, right_lse = flashbench.attention(*exact[:3], return_lse=True)
    # Unit roundoff of float16: 2^-11, of bfloat16: 2^-8; values are below 4.
    unit = float(ml_dtypes.finfo(dtype).eps) / 2
    np.testing.assert_allclose(o.astype(np.float64), right, rtol=1.01 * unit, atol=1e-6)
    np.testing.assert_allclose(lse, right_lse, rtol=1e-6, atol=1e-6)
    found = flashbench.attention_backward(arrays[3], *arrays[:3], o, lse)
    expected = flashbench.attention_backward(exact[3], *exact[:3], right, right_lse)
    for name, actual, wanted in zip(("dq", "dk", "dv"), found, expected, strict=True):
        np.testing.assert_allclose(actual.astype(np.float64), wanted, atol=16 * unit, err_msg=name)


@HALVES
def test_packed_sequences_and_pages_take_halves(dtype: np.dtype) -> None:
    q, k, v, _ = (x[0].swapaxes(0, 1) for x in in_halves(dtype))
    bounds = [0, 4, 9]
    o = flashbench.attention_varlen(q, k, v, bounds, bounds)
    assert o.dtype == dtype
    alone = flashbench.attention(*(x[4:].swapaxes(0, 1)[None] for x in (q, k, v)))
    np.testing.assert_array_equal(o[4:].astype(F32), alone[0].swapaxes(0, 1).astype(F32))
    pool_k, pool_v = (x.reshape(3, 3, 4, 8).swapaxes(1, 2) for x in (k, v))  # three pages of three tokens
    paged = flashbench.attention(
        q[None, -1:].swapaxes(1, 2), pool_k, pool_v, key_lengths=[9], block_table=[[0, 1, 2]]
    )
    whole = flashbench.attention(q[None, -1:].swapaxes(1, 2), *(x[None].swapaxes(1, 2) for x in (k, v)))
    assert paged.dtype == dtype
    np.testing.assert_array_equal(paged.astype(F32), whole.astype(F32))


@HALVES
@pytest.mark.parametrize("what", ["mask", "sinks", "alibi_slopes"])
def test_features_in_float32_and_in_the_dtype_are_the_same(dtype: np.dtype, what: str) -> None:
    q, k, v, do = in_halves(dtype)
    shape = {"mask": (4, 9, 9), "sinks": (4,), "alibi_slopes": (4,)}[what]
    own = np.abs(numbers(shape)).astype(dtype)
    results = []
    for given in (own, own.astype(F32)):
        o, lse = flashbench.attention(q, k, v, return_lse=True, **{what: given})
        gradients = flashbench.attention_backward(
            do, q, k, v, o, lse, return_dmask=what == "mask", **{what: given}
        )
        results.append((o, lse, *gradients, gradients.dsinks, gradients.dmask))
    for one, other in zip(*results, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, other)
    for sums, name in ((results[0][5], "sinks"), (results[0][6], "mask")):
        assert (sums is not None) == (what == name)
        assert sums is None or (sums.dtype == F32 and sums.shape == shape)


@HALVES
def test_a_broadcast_mask_is_converted_once_and_stays_broadcast(dtype: np.dtype) -> None:
    q, k, v, _ = in_halves(dtype)
    row = numbers((1, 1, 1, 9)).astype(dtype)
    call = prepare("fwd", q, k, v, mask=np.broadcast_to(row, (2, 4, 9, 9)))
    mask = call.extras.mask
    assert isinstance(mask, np.ndarray)
    assert (mask.dtype, mask.strides[:3]) == (F32, (0, 0, 0))
    np.testing.assert_array_equal(mask[0, 0, 0], row[0, 0, 0].astype(F32))


def test_a_float32_mask_is_not_copied() -> None:
    q, k, v, _ = in_halves(BF16)
    given = numbers((9, 9))
    call = prepare("fwd", q, k, v, mask=given)
    assert np.shares_memory(call.extras.mask, given)


def test_inside_bfloat16_is_the_same_memory_as_bit_patterns() -> None:
    q, k, v, _ = in_halves(BF16)
    call = prepare("fwd", q, k, v)
    assert call.problem.dtype == "bfloat16"
    assert call.q.dtype == np.uint16
    assert np.shares_memory(call.q, q)
    strided = np.zeros((2, 4, 18, 8), BF16)[:, :, ::2]
    assert prepare("fwd", strided, k, v).q.strides == strided.strides


MIXED: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"k": BF16}, "k has dtype bfloat16, q has float32: they must be the same"),
    "value": ({"v": F16}, "v has dtype float16, q has float32: they must be the same"),
    "query": ({"q": BF16, "k": F32, "v": F32}, "k has dtype float32, q has bfloat16: they must be the same"),
    "halves": (
        {"q": F16, "k": BF16, "v": BF16},
        "k has dtype bfloat16, q has float16: they must be the same",
    ),
    "sinks": (
        {"q": BF16, "k": BF16, "v": BF16, "sinks": np.dtype(float)},
        "sinks has dtype float64, q has bfloat16: sinks must be float32 or bfloat16",
    ),
    "mask": (
        {"q": F16, "k": F16, "v": F16, "mask": BF16},
        "mask has dtype bfloat16, q has float16: mask must be float32 or float16",
    ),
    "whole mask": (
        {"q": BF16, "k": BF16, "v": BF16, "mask": np.dtype(int)},
        "mask must be bool (True = may attend) or float32 or bfloat16 (added to the scores), not int64",
    ),
}


@pytest.mark.parametrize(("dtypes", "message"), MIXED.values(), ids=MIXED)
def test_a_mixed_call_names_both_dtypes(dtypes: dict[str, np.dtype], message: str) -> None:
    shapes = {"q": SHAPE, "k": SHAPE, "v": SHAPE, "sinks": (4,), "mask": (9, 9)}
    wanted = {"q": F32, "k": F32, "v": F32, **dtypes}
    arrays = {name: numbers(shapes[name]).astype(dtype) for name, dtype in wanted.items()}
    with pytest.raises(AttentionError) as error:
        flashbench.attention(**arrays)
    assert str(error.value) == message


@HALVES
def test_lse_must_be_float32(dtype: np.dtype) -> None:
    q, k, v, do = in_halves(dtype)
    o, lse = flashbench.attention(q, k, v, return_lse=True)
    with pytest.raises(AttentionError, match=f"lse has dtype {dtype}, q has {dtype}: lse must be float32"):
        flashbench.attention_backward(do, q, k, v, o, lse.astype(dtype))


def test_bare_bit_patterns_are_refused_with_what_to_do() -> None:
    patterns = np.zeros(SHAPE, np.uint16)
    with pytest.raises(AttentionError, match="not uint16") as error:
        flashbench.attention(patterns, patterns, patterns)
    assert error.value.hint == "q.view(ml_dtypes.bfloat16), if these are bit patterns"


# DLPack


class OnlyDlpack:
    """What any library offers: no more than the two methods."""

    def __init__(self, x: Any) -> None:
        self._x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self._x.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._x.__dlpack_device__()


WRAPPED = pytest.mark.parametrize("wrap", [lambda x: x, OnlyDlpack], ids=["tensor", "only DLPack"])


@WRAPPED
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_tensors_are_read_without_a_copy(wrap: Callable[[Any], Any], name: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(numbers()).to(getattr(torch, name)).transpose(1, 2)
    found = as_array("q", wrap(tensor))
    assert dtype_of(found.dtype) == name
    assert found.ctypes.data == tensor.data_ptr()
    assert found.shape == tuple(tensor.shape)
    assert [stride // 2 for stride in found.strides] == list(tensor.stride())
    stored = as_patterns(found) if name == "bfloat16" else found.view(np.uint16)
    np.testing.assert_array_equal(stored.view(np.int16), tensor.view(torch.int16).numpy())


@WRAPPED
def test_tensors_give_what_arrays_of_ml_dtypes_give(wrap: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch")
    q, k, v, do = in_halves(BF16)
    tensors = [wrap(torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)) for x in (q, k, v, do)]
    o, lse = flashbench.attention(*tensors[:3], return_lse=True)
    assert o.dtype == BF16
    np.testing.assert_array_equal(o, flashbench.attention(q, k, v))
    mixed = flashbench.attention(q, tensors[1], v)
    np.testing.assert_array_equal(mixed, o)
    gradients = flashbench.attention_backward(tensors[3], *tensors[:3], o, lse)
    for one, other in zip(gradients, flashbench.attention_backward(do, q, k, v, o, lse), strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_of_a_tensor_lives_as_long_as_its_view() -> None:
    torch = pytest.importorskip("torch")
    found = as_array("q", torch.full((64, 1024), 3.0, dtype=torch.bfloat16))
    others = [torch.full((64, 1024), 7.0, dtype=torch.bfloat16) for _ in range(8)]
    assert (as_patterns(found) == 0x4040).all()
    assert len(others) == 8


def test_a_tensor_that_needs_a_gradient_is_refused_with_its_librarys_words() -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros(SHAPE, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(AttentionError, match=r"cannot be shared through DLPack: .*require gradient"):
        flashbench.attention(x, x, x)


def test_other_dtypes_that_numpy_lacks_stay_refused() -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros(SHAPE, dtype=torch.float8_e4m3fn)
    with pytest.raises(AttentionError, match="cannot be shared through DLPack"):
        flashbench.attention(x, x, x)


def test_ml_dtypes_is_not_imported_for_other_dtypes() -> None:
    script = """
        import sys, numpy as np, flashbench
        x = np.zeros((1, 1, 2, 4), np.float16)
        flashbench.attention(x, x, x)
        assert "ml_dtypes" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def test_without_ml_dtypes_a_result_in_bfloat16_is_one_line_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashbench.arguments import bfloat16

    bfloat16._of_ml_dtypes.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    x = np.zeros(SHAPE, np.uint16).view(BFLOAT16)
    with pytest.raises(EngineError, match="ml_dtypes, which gives it one, is not installed") as error:
        flashbench.attention(x, x, x)
    assert error.value.hint == "pip install 'flashbench[half]'"
