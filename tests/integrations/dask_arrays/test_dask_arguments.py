"""Arguments of attention on dask arrays that break a rule, and the signature."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

da = pytest.importorskip("dask.array")

from flashbench.errors import AttentionError
from flashbench.integrations.dask import attention, attention_backward

X = da.zeros((2, 4, 10, 8), chunks=(1, 2, 3, 8))
BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "NumPy": ((X, np.zeros(X.shape), X), {}, "k must be a dask array, not ndarray"),
    "3-D": (
        (X, X, X[0]),
        {},
        "v must be 4-D (batch, num_heads, seqlen, head_dim), but has shape (4, 10, 8)",
    ),
    "head_dim": (
        (X, X[..., :4], X),
        {},
        "k must have q's batch and head_dim, but has shape (2, 4, 10, 4) where q has (2, 4, 10, 8)",
    ),
    "dtypes": (
        (X, X.astype("f4"), X),
        {},
        "k has dtype float32, q has float64: they must be the same",
    ),
    "whole numbers": (
        (X.astype(int), X, X),
        {},
        "q must be float64, float32, bfloat16 or float16, not int64",
    ),
    "heads cut inside a group": (
        (X, X[:, :1], X[:, :1]),
        {},
        "q must be chunked along num_heads in multiples of 4, the query heads that share a key head, "
        "not (2, 2)",
    ),
    "unknown sizes": (
        (X[X[:, 0, 0, 0] == 0], X, X),
        {},
        "q must have chunks of known sizes, not ((nan, nan), (2, 2), (3, 3, 3, 1), (8,))",
    ),
    "lengths": ((X, X, X), {"key_lengths": [3, 11]}, "key_lengths must be from 0 to 10, not 11 (sequence 1)"),
    "window": (
        (X, X, X),
        {"window": (-1, 0)},
        "window must be (left, right), each None or a whole number from 0 up, not (-1, 0)",
    ),
}


@pytest.mark.parametrize(("given", "options", "message"), BAD.values(), ids=BAD)
def test_a_wrong_argument_is_named(given: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttentionError) as error:
        attention(*given, **options)
    assert str(error.value) == message


def test_o_and_lse_of_other_shapes_are_named() -> None:
    with pytest.raises(AttentionError, match=r"o must have shape \(2, 4, 10, 8\) for these q, k and v"):
        attention_backward(X, X, X, X, X[:, :, 1:], X[..., 0])
    with pytest.raises(AttentionError, match=r"lse must have shape \(2, 4, 10\) for these q, k and v"):
        attention_backward(X, X, X, X, X, X[:, :, 1:, 0])


def test_help_shows_the_options() -> None:
    names = "q, k, v, *, softmax_scale=None, causal=False, window=(None, None), softcap=None, "
    names += "alibi_slopes=None, sinks=None, key_lengths=None, return_lse=False, in_flight=None"
    parameters = inspect.signature(attention).parameters.values()
    bare = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    assert str(bare) == f"({names})"


def test_an_unknown_option_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'causl'. Did you mean 'causal'"):
        attention(X, X, X, causl=True)
