"""Every wrong argument of attention is one line that names it, the rule and the value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flashbench.errors import AttentionError, EngineError, FlashbenchError, UnsupportedError
from flashbench.functional import attention, attention_backward

X = np.zeros((2, 4, 6, 8))


class OnGpu:
    """An array that lives elsewhere."""

    def __dlpack__(self, **_: Any) -> None:
        raise AssertionError("must not be asked")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class Unshareable:
    """What an array library says when it will not share."""

    def __dlpack__(self, **_: Any) -> None:
        raise BufferError("Can't export this\nand a second line")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


BAD = {
    "a list": ({"q": [[1.0]]}, "q must be a NumPy array or another with __dlpack__, not list"),
    "none": ({"v": None}, "v must be a NumPy array or another with __dlpack__, not NoneType"),
    "a masked array": ({"k": np.ma.masked_array(X)}, "k is a masked array"),
    "on a gpu": ({"k": OnGpu()}, "k must be in CPU memory, not on DLPack device type 2"),
    "unshareable": (
        {"q": Unshareable()},
        "q (Unshareable) cannot be shared through DLPack: Can't export this",
    ),
    "half": ({"q": X.astype("f2")}, "q must be float64 or float32, not float16"),
    "whole numbers": ({"k": X.astype("i4")}, "k must be float64 or float32, not int32"),
    "complex": ({"v": X.astype("c16")}, "v must be float64 or float32, not complex128"),
    "byte order": ({"q": X.astype(X.dtype.newbyteorder())}, "q must be in this machine's byte order, not '"),
    "mixed dtypes": ({"k": X.astype("f4")}, "k has dtype float32, q has float64: they must be the same"),
    "2-D": ({"q": X[0, 0]}, "or all 3-D (batch, seqlen, head_dim); q has shape (6, 8)"),
    "5-D": ({"q": X[None], "k": X[None], "v": X[None]}, "q has shape (1, 2, 4, 6, 8)"),
    "mixed dimensions": ({"v": X[:, 0]}, "v has shape (2, 6, 8), q (2, 4, 6, 8)"),
    "no queries": ({"q": X[:, :, :0]}, "q must not be empty, but has shape (2, 4, 0, 8)"),
    "no keys": ({"k": X[:, :, :0], "v": X[:, :, :0]}, "k must not be empty, but has shape (2, 4, 0, 8)"),
    "other batch": (
        {"k": X[:1]},
        "k must have q's batch and head_dim, but has shape (1, 4, 6, 8) where q has",
    ),
    "other head_dim": ({"k": X[..., :5]}, "but has shape (2, 4, 6, 5) where q has (2, 4, 6, 8)"),
    "other key heads": ({"v": X[:, :2]}, "v must have k's batch, num_kv_heads and seqlen_k, but has shape"),
    "other key length": ({"v": X[:, :, :5]}, "but has shape (2, 4, 5, 8) where k has (2, 4, 6, 8)"),
    "heads": (
        {"k": X[:, :3], "v": X[:, :3]},
        "num_heads (4) must be a multiple of num_kv_heads (3)",
    ),
    "wide": (
        {"q": np.zeros((1, 1, 1, 257)), "k": np.zeros((1, 1, 1, 257)), "v": np.zeros((1, 1, 1, 1))},
        "head_dim must be at most 256, not 257",
    ),
    "wide values": ({"v": np.zeros((2, 4, 6, 300))}, "head_dim_v must be at most 256, not 300"),
    "infinite scale": ({"softmax_scale": float("inf")}, "softmax_scale must be finite, not inf"),
    "nan scale": ({"softmax_scale": np.float32("nan")}, "softmax_scale must be finite, not nan"),
    "scale as text": ({"softmax_scale": "0.1"}, "softmax_scale must be a number or None, not '0.1'"),
    "causal as a number": ({"causal": 1}, "causal must be True or False, not 1"),
    "simd as text": ({"use_simd": "no"}, "use_simd must be True or False, not 'no'"),
    "alignment": (
        {"causal_alignment": "top-right"},
        "unknown causal_alignment 'top-right'; known: bottom-right, top-left",
    ),
    "block_q": ({"block_q": 0}, "block_q must be at least 1, not 0"),
    "block_k": ({"block_k": 2.0}, "block_k must be a whole number or None, not 2.0"),
    "threads": ({"num_threads": -1}, "num_threads must be at least 1, not -1"),
    "threads as a flag": ({"num_threads": True}, "num_threads must be a whole number or None, not True"),
    "engine": ({"engine": "flush"}, "unknown engine 'flush'; known: flash, standard, numpy, torch-flash"),
    "engine as a list": ({"engine": ["flash"]}, "engine must be one of flash, standard, numpy, torch-flash"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_wrong_argument_is_named_with_the_rule_and_the_value(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"q": X, "k": X, "v": X, "engine": "numpy", **changes}
    with pytest.raises(AttentionError) as forward:
        attention(**arguments)
    with pytest.raises(AttentionError) as backward:
        attention_backward(do=X, o=X, lse=X[..., 0], **arguments)
    assert message in str(forward.value)
    assert "\n" not in str(forward.value)
    assert str(backward.value) == str(forward.value)


BAD_BACKWARD = {
    "do of other shape": (
        {"do": X[:, :, :5]},
        "do must have shape (2, 4, 6, 8) for these q, k and v, not (2, 4, 5, 8)",
    ),
    "o of other shape": (
        {"o": X[:, 0]},
        "o must have shape (2, 4, 6, 8) for these q, k and v, not (2, 6, 8)",
    ),
    "lse of other shape": (
        {"lse": X},
        "lse must have shape (2, 4, 6) for these q, k and v, not (2, 4, 6, 8)",
    ),
    "do of other dtype": (
        {"do": X.astype("f4")},
        "do has dtype float32, q has float64: they must be the same",
    ),
    "lse of other dtype": ({"lse": X[..., 0].astype("i8")}, "lse must be float64 or float32, not int64"),
    "o as a list": ({"o": []}, "o must be a NumPy array or another with __dlpack__, not list"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_BACKWARD.values(), ids=BAD_BACKWARD)
def test_a_wrong_argument_of_backward_is_named(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"do": X, "q": X, "k": X, "v": X, "o": X, "lse": X[..., 0], **changes}
    with pytest.raises(AttentionError) as error:
        attention_backward(**arguments, engine="numpy")
    assert str(error.value) == message


def test_what_to_do_comes_as_a_hint() -> None:
    with pytest.raises(AttentionError) as error:
        attention(OnGpu(), X, X)
    assert error.value.hint == "q.cpu()"
    assert error.value.exit_code == 2
    assert isinstance(error.value, ValueError)


def test_an_engine_that_cannot_run_the_problem_says_why() -> None:
    pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match=r"engine 'torch-flash' cannot run this: .* above 0, not -1"):
        attention(X, X, X, causal=True, softmax_scale=-1, engine="torch-flash")


def test_a_missing_library_is_not_an_unknown_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise EngineError(
            f"engine {name!r} needs the package 'torch', which is not installed", hint="pip install"
        )

    monkeypatch.setattr("flashbench.arguments.get_engine", missing)
    with pytest.raises(FlashbenchError, match="needs the package 'torch'") as error:
        attention(X, X, X, engine="torch-flash")
    assert type(error.value) is EngineError
