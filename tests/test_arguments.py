"""Every wrong argument of attention gives one line that names it, the rule and the value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.arguments.features import as_mask
from flashbench.block_mask import BlockMask
from flashbench.errors import AttentionError, EngineError, FlashbenchError, UnsupportedError
from flashbench.functional import attention, attention_backward
from flashbench.problem import AttentionProblem

X = np.zeros((2, 4, 6, 8))


class OnGpu:
    """An array in another device's memory."""

    def __dlpack__(self, **_: Any) -> None:
        raise AssertionError("must not be asked")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class Unshareable:
    """An array whose library refuses to share its memory."""

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
    "half": ({"q": X.astype("f2")}, "k has dtype float64, q has float16: they must be the same"),
    "whole numbers": (
        {"k": X.astype("i4")},
        "k must be float64, float32, bfloat16 or float16, not int32",
    ),
    "complex": (
        {"v": X.astype("c16")},
        "v must be float64, float32, bfloat16 or float16, not complex128",
    ),
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
    "window of one number": (
        {"window": 4},
        "window must be (left, right), each None or a whole number from 0 up, not 4",
    ),
    "window without limit as in other libraries": (
        {"window": (-1, 0)},
        "a whole number from 0 up, not (-1, 0)",
    ),
    "window of halves": ({"window": (0.5, None)}, "a whole number from 0 up, not (0.5, None)"),
    "softcap": ({"softcap": 0}, "softcap must be above 0 and finite, not 0.0"),
    "softcap as text": ({"softcap": "30"}, "softcap must be a number or None, not '30'"),
    "endless softcap": ({"softcap": float("inf")}, "softcap must be finite, not inf"),
    "slopes as a list": (
        {"alibi_slopes": [1.0] * 4},
        "alibi_slopes must be a NumPy array or another with __dlp",
    ),
    "slopes of other heads": (
        {"alibi_slopes": np.zeros(3)},
        "alibi_slopes must have shape (num_heads,) = (4,) or (batch, num_heads) = (2, 4), not (3,)",
    ),
    "slopes of flags": ({"alibi_slopes": np.ones(4, bool)}, "alibi_slopes must be numbers, not bool"),
    "slopes that are not finite": (
        {"alibi_slopes": np.array([0, 1, np.nan, 2])},
        "alibi_slopes must be finite in float64, not nan",
    ),
    "mask as a list": ({"mask": [True]}, "mask must be a NumPy array or another with __dlpack__, not list"),
    "mask of whole numbers": (
        {"mask": np.ones((6, 6), int)},
        "mask must be bool (True = may attend) or float64 as q is (added to the scores), not int64",
    ),
    "mask of other dtype": (
        {"mask": np.zeros((6, 6), "f4")},
        "mask has dtype float32, q has float64: they must be the same",
    ),
    "mask of one value": (
        {"mask": np.array(True)},
        "mask of shape () does not broadcast to (batch, num_heads,",
    ),
    "mask of other length": (
        {"mask": np.ones((6, 5), bool)},
        "mask of shape (6, 5) does not broadcast to (batch, num_heads, seqlen_q, seqlen_k) = (2, 4, 6, 6)",
    ),
    "mask in 5-D": ({"mask": np.ones((1, 2, 4, 6, 6), bool)}, "mask of shape (1, 2, 4, 6, 6) does not broad"),
    "mask of nothing": ({"mask": np.ones((0, 6), bool)}, "mask of shape (0, 6) does not broadcast"),
    "block mask of other length": (
        {"mask": BlockMask.from_mask(np.ones((2, 1, 6, 7), bool))},
        "mask is a BlockMask of shape (2, 1, 6, 7), which is not (batch, num_heads, seqlen_q, seqlen_k) = "
        "(2, 4, 6, 6), nor 1 in place of batch or num_heads",
    ),
    "block mask of other heads": (
        {"mask": BlockMask.from_mask(np.ones((2, 6, 6), bool))},
        "shape (1, 2, 6, 6)",
    ),
    "sinks of other heads": (
        {"sinks": np.zeros((1, 4))},
        "sinks must have shape (num_heads,) = (4,), not (1, 4)",
    ),
    "sinks of other dtype": (
        {"sinks": np.zeros(4, "f4")},
        "sinks has dtype float32, q has float64: they must",
    ),
    "key lengths of other batch": (
        {"key_lengths": [1, 2, 3]},
        "key_lengths must have a length for each sequence, shape (2,), not (3,)",
    ),
    "key lengths of halves": (
        {"key_lengths": [1.0, 2.0]},
        "key_lengths must hold whole numbers, not float64",
    ),
    "key lengths of flags": (
        {"key_lengths": np.ones(2, bool)},
        "key_lengths must hold whole numbers, not bool",
    ),
    "key lengths beyond the keys": (
        {"key_lengths": np.array([6, 7])},
        "key_lengths must be from 0 to 6, not 7 (sequence 1)",
    ),
    "key lengths below nothing": (
        {"key_lengths": (-1, 2)},
        "key_lengths must be from 0 to 6, not -1 (sequence 0)",
    ),
    "no key lengths": ({"key_lengths": []}, "for each sequence, shape (2,), not (0,)"),
    "dropout": ({"dropout": 1.0, "dropout_seed": 1}, "dropout must be at least 0 and below 1, not 1.0"),
    "dropout below nothing": (
        {"dropout": -0.1, "dropout_seed": 1},
        "dropout must be at least 0 and below 1, not",
    ),
    "dropout as none": ({"dropout": None}, "dropout must be a number, not None"),
    "dropout as a flag": ({"dropout": True}, "dropout must be a number or None, not True"),
    "dropout without a seed": (
        {"dropout": 0.1},
        "dropout (0.1) needs a dropout_seed: attention_backward has to",
    ),
    "dropout seed of halves": (
        {"dropout": 0.1, "dropout_seed": 0.5},
        "dropout_seed must be a whole number or None, not 0.5",
    ),
    "dropout seed below nothing": ({"dropout_seed": -1}, "dropout_seed must be at least 0, not -1"),
    "dropout seed too large": (
        {"dropout": 0.1, "dropout_seed": 2**64},
        "dropout_seed must be at least 0 and below 2**64, not 18446744073709551616",
    ),
    "block table without lengths": (
        {"block_table": [[0], [1]]},
        "block_table needs key_lengths: the table alone does not say how many keys are in the last page",
    ),
    "block table of other batch": (
        {"block_table": [[0]], "key_lengths": [1, 1]},
        "block_table must have shape (batch = 2, pages), not (1, 1)",
    ),
    "block table of uneven rows": (
        {"block_table": [[0], [1, 0]], "key_lengths": [1, 7]},
        "block_table must have rows of one length, not [[0], [1, 0]]",
    ),
    "block table of flags": (
        {"block_table": np.ones((2, 1), bool), "key_lengths": [1, 1]},
        "whole numbers, not bool",
    ),
    "block table beyond the pages": (
        {"block_table": [[0, 1], [1, 2]], "key_lengths": [12, 7]},
        "block_table must name pages from 0 to 1, as k has 2, not 2 (page 1 of sequence 1)",
    ),
    "block table below the pages": (
        {"block_table": [[0, 1], [-1, 1]], "key_lengths": [12, 7]},
        "block_table must name pages from 0 to 1, as k has 2, not -1 (page 0 of sequence 1)",
    ),
    "block table too large to be true": (
        {"block_table": np.array([[2**64 - 1]] * 2, np.uint64), "key_lengths": [1, 1]},
        "block_table must name pages from 0 to 1, as k has 2, not 18446744073709551615 (page 0 of sequence",
    ),
    "block table too short": (
        {"block_table": [[0], [1]], "key_lengths": [6, 7]},
        "key_lengths must be from 0 to 6, not 7 (sequence 1)",
    ),
    "pages of other head_dim": (
        {"block_table": [[0], [1]], "key_lengths": [1, 1], "k": X[..., :5]},
        "k must have q's head_dim, but has shape (2, 4, 6, 5) where q has (2, 4, 6, 8)",
    ),
    "pages of values": (
        {"block_table": [[0], [1]], "key_lengths": [1, 1], "v": X[:1]},
        "v must have k's pages, num_kv_heads and page_size, but has shape (1, 4, 6, 8) where k has (2, 4,",
    ),
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
    "lse of other dtype": (
        {"lse": X[..., 0].astype("i8")},
        "lse must be float64, float32, bfloat16 or float16, not int64",
    ),
    "o as a list": ({"o": []}, "o must be a NumPy array or another with __dlpack__, not list"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_BACKWARD.values(), ids=BAD_BACKWARD)
def test_a_wrong_argument_of_backward_is_named(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"do": X, "q": X, "k": X, "v": X, "o": X, "lse": X[..., 0], **changes}
    with pytest.raises(AttentionError) as error:
        attention_backward(**arguments, engine="numpy")
    assert str(error.value) == message


THREE_D = X[:, 0]
BAD_IN_3D = {
    "mask with heads": (
        np.ones((2, 1, 6, 6), bool),
        "mask of shape (2, 1, 6, 6) does not broadcast to (batch, seqlen_q, seqlen_k) = (2, 6, 6)",
    ),
    "block mask with heads": (
        BlockMask.from_mask(np.ones((4, 6, 6), bool)),
        "mask is a BlockMask of shape (1, 4, 6, 6), which is not (batch, num_heads, seqlen_q, seqlen_k) = "
        "(2, 1, 6, 6), nor",
    ),
}


@pytest.mark.parametrize(("mask", "message"), BAD_IN_3D.values(), ids=BAD_IN_3D)
def test_a_mask_without_heads_where_q_has_none(mask: Any, message: str) -> None:
    with pytest.raises(AttentionError) as error:
        attention(THREE_D, THREE_D, THREE_D, mask=mask, engine="numpy")
    assert str(error.value).startswith(message)


@given(
    own=st.lists(st.sampled_from([0, 1, 1, 2, 3, 4, 5]), max_size=5),
    full=st.tuples(*[st.integers(1, 4)] * 4),
    has_heads=st.booleans(),
    kind=st.sampled_from(["bool", "float"]),
)
def test_masks_broadcast_as_numpy_has_it_and_are_views(
    own: list[int], full: tuple[int, int, int, int], has_heads: bool, kind: str
) -> None:
    if not has_heads:
        full = (full[0], 1, *full[2:])
    target = full if has_heads else (full[0], *full[2:])
    mask = np.random.default_rng(0).random(own)
    mask = np.asarray(mask < 0.5 if kind == "bool" else mask)
    try:
        expected = np.broadcast_to(mask, target) if own else None
    except ValueError:
        expected = None
    if expected is None:
        with pytest.raises(AttentionError, match="does not broadcast"):
            as_mask(mask, full, "float64", has_heads=has_heads)
        return
    found = as_mask(mask, full, "float64", has_heads=has_heads)
    assert found.array.shape == full
    assert np.array_equal(found.array, expected if has_heads else expected[:, None])
    assert np.shares_memory(found.array, mask)
    assert (found.kind, found.shape) == (kind, mask.shape)
    problem = AttentionProblem.of(
        full[2], seqlen_k=full[3], batch=full[0], num_heads=full[1], mask=found.kind, mask_axes=found.axes
    )
    assert np.prod(problem.mask_shape) == mask.size
    for stride, size, whole in zip(found.array.strides, problem.mask_shape, full, strict=True):
        assert stride == 0 or size == whole


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
