"""Calls that a tensor type or a mode overrides by `__torch_function__`, such as `CausalBias` and `torch.fx`.

Such code recognises PyTorch's function by identity, so it gets PyTorch's function. flashbench computes the
call that this code passes on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias, CausalVariant
from torch.overrides import TorchFunctionMode, has_torch_function_variadic
from torch.utils._device import DeviceContext

from flashbench.integrations.torch.place import Attention, in_its_place, torch_sdpa
from flashbench.integrations.torch.statistics import fell_back

# PyTorch has no public names for the functions of its stack of modes.
_size, _at = torch._C._len_torch_function_stack, torch._C._get_function_stack_at
_push, _pop = torch._C._push_on_torch_function_stack, torch._C._pop_torch_function_stack


def overriding(*arguments: Any) -> str | None:
    """What overrides a call with these arguments, in words; None if nothing does."""
    for x in arguments:
        if type(x) is not Tensor and _overrides(x):
            return f"tensors of type {type(x).__name__}"
    for i in range(_size()):
        mode = type(_at(i))
        if mode is not DeviceContext:  # it overrides only functions that make tensors
            return f"a mode, {mode.__name__}, that overrides PyTorch's functions"
    return None


@torch.compiler.disable  # a compiler would trace the replacement instead of PyTorch's function
def overridden(by: str, compute: Attention, *arguments: Any, **named: Any) -> Tensor:
    """The result of a call that `by` overrides. If it passes the call on, `compute` computes it."""
    here = _Here()
    last = _Last(compute, weakref.ref(here))
    _insert(last)
    try:
        o = in_its_place(*arguments, **named)
    finally:
        _remove(last)
    if not last.reached:
        fell_back(by)
    return o


def traceable(bias: CausalBias) -> tuple[Tensor | None, bool]:
    """(mask, is_causal) with the meaning of `bias`; is_causal aligns top-left."""
    rows, columns = bias.seq_len_q, bias.seq_len_kv
    if rows == columns or bias.variant == CausalVariant.UPPER_LEFT:
        return None, True
    return torch.ones(rows, columns, dtype=torch.bool, device="cpu").tril(columns - rows), False


class _Here:
    """Lives as long as one call, even if a signal handler's exception skips the call's `finally`."""


class _Last(TorchFunctionMode):
    """The last mode that sees a call of PyTorch's function: after all other modes and all tensor types.

    lasts: returns None once the call is over. The mode then does nothing.
    """

    def __init__(self, compute: Attention, lasts: Callable[[], object]) -> None:
        super().__init__()
        self.compute, self.reached, self.lasts = compute, False, lasts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch_sdpa or self.lasts() is None:
            return func(*args, **kwargs)
        overriders = torch.overrides._get_overloaded_args(
            [x for x in (*args, *kwargs.values()) if type(x) is not Tensor]
        )
        for x in overriders:
            with self:  # x's type may pass the call on
                o = x.__torch_function__(func, types, args, kwargs)
            if o is not NotImplemented:
                return o
        if overriders:
            return func(*args, **kwargs)  # for PyTorch's own error
        self.reached = True
        return self.compute(*args, **kwargs)


def _overrides(x: Any) -> bool:
    if torch.compiler.is_dynamo_compiling():
        return bool(has_torch_function_variadic(x))  # during tracing it does not see modes
    return bool(torch.overrides._get_overloaded_args([x]))


def _insert(mode: TorchFunctionMode) -> None:
    """Put `mode` below the other modes of this thread."""
    others = [_pop() for _ in range(_size())]  # mostly none: then an interrupt cannot lose a user's mode
    for other in (mode, *reversed(others)):
        _push(other)


def _remove(mode: TorchFunctionMode) -> None:
    found = [_pop() for _ in range(_size())]
    for other in reversed(found):
        if other is not mode:
            _push(other)
