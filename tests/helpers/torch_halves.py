"""Errors in half precision, judged by those of PyTorch's plain formula in the same dtype.

As flash-attention's tests do: an output may be twice as far from the float64 answer as a computation that
rounds scores and probabilities to the dtype, a gradient three times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HALVES = (torch.float16, torch.bfloat16)
UNIT_ROUNDOFF = {dtype: torch.finfo(dtype).eps / 2 for dtype in HALVES}


@contextlib.contextmanager
def in_the_dtype_itself() -> Iterator[None]:
    """Within the block PyTorch's attention is its plain formula, which rounds each step to the dtype."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # on CPUs too, whatever its name
    try:
        with sdpa_kernel(SDPBackend.MATH), on_one_thread():
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


@contextlib.contextmanager
def on_one_thread() -> Iterator[None]:
    """Within the block PyTorch's operators do not wait for threads of busy cores, which takes longer than
    small products do.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_gradients(
    function: Callable[..., Any], leaves: Sequence[Any], do: Any, dtype: Any = None
) -> list[Any]:
    """o and the gradients by all leaves, which are first converted to `dtype`, unless that is None."""
    leaves = [x.detach().to(x.dtype if dtype is None else dtype).requires_grad_() for x in leaves]
    o = function(*leaves)
    return [o.detach(), *torch.autograd.grad(o, leaves, do.to(o.dtype))]


def assert_accurate(ours: Callable[..., Any], theirs: Callable[..., Any], leaves: Sequence[Any]) -> None:
    """Assert that o and all gradients of `ours` are as exact as half precision allows.

    theirs: the same attention by PyTorch. leaves: its tensors, all with a gradient.
    """
    do = torch.randn(ours(*leaves).shape, generator=torch.Generator().manual_seed(1)).to(leaves[0].dtype)
    found = with_gradients(ours, leaves, do)
    with on_one_thread():
        exact = with_gradients(theirs, leaves, do, torch.float64)
    with in_the_dtype_itself():
        plain = with_gradients(theirs, leaves, do)
    assert [x.dtype for x in found] == [leaves[0].dtype, *(x.dtype for x in leaves)]
    assert_close_to(found, exact, plain)


@on_one_thread()
def assert_close_to(
    found: Sequence[Any], exact: Sequence[Any], plain: Sequence[Any], few: int = 1, terms: float = 0.0
) -> None:
    """Assert it of o and its gradients, in this order. exact: in float64. plain: in the dtype itself.

    few: a factor for outputs of few numbers. There chance decides how large the plain formula's errors are.
    terms: the largest number of v. Where the terms of o cancel, or those of a mask's gradient, which is the
    last, the rounding of what is multiplied by it remains.
    """
    of_terms = {0, 4}
    for at, (actual, expected, rounded) in enumerate(zip(found, exact, plain, strict=True)):
        assert actual.shape == expected.shape
        largest = max(expected.abs().max().item(), terms if at in of_terms else 0.0)
        one_rounding = UNIT_ROUNDOFF.get(actual.dtype, 0.0) * largest
        error = max((rounded.double() - expected).abs().max().item(), one_rounding)
        atol = few * (3 if at else 2) * error + 1e-5
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)
