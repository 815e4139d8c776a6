"""Short calls of engine `flash` by the addresses of tensors: no array is made but those of the results.

To make a NumPy array of each tensor would take as long as the attention of a small problem.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from flashbench.engines import AttentionGradients, Forward
from flashbench.engines.flash.backward import PreparedBackward, prepared_backward
from flashbench.engines.flash.decode import PreparedDecode
from flashbench.engines.flash.forward import PreparedForward, prepared_forward
from flashbench.engines.flash.prepared import MOST_KEPT, MOST_SEQUENCES
from flashbench.integrations.torch.arrays import ACCUMULATORS
from flashbench.integrations.torch.calls import known_alone
from flashbench.integrations.torch.options import TENSORS, Options

_Form = tuple[torch.Size, tuple[int, ...], torch.dtype]  # shape, strides in elements, dtype
_ALIGNED = 8  # bytes: whole elements of every dtype


def forward_at(q: Tensor, k: Tensor, v: Tensor, given: Options) -> Forward | None:
    """o and lse of plain tensors with contiguous rows; None: the call must go by arrays.

    Raises AttentionError, UnsupportedError and EngineError, as `call_of`.
    """
    addresses = _addresses(given, q, k, v)
    if addresses is None:
        return None
    prepared = _forward(_form(q), _form(k), _form(v), given[TENSORS:])
    return None if prepared is None else prepared.run_at(*addresses)


def backward_at(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, given: Options
) -> AttentionGradients | None:
    """The gradients, as `forward_at`. o and lse are its results, or have their shapes and dtypes."""
    addresses = _addresses(given, do, q, k, v, o, lse)
    if addresses is None:
        return None
    strides = do.stride(), o.stride(), lse.stride()
    prepared = _backward(_form(q), _form(k), _form(v), given[TENSORS:], *strides)
    return None if prepared is None else prepared.run_at(*addresses)


def _addresses(given: Options, *tensors: Tensor) -> list[int] | None:
    """Where the tensors' numbers are. None: not in aligned memory of the CPU, or the options have tensors."""
    mask, slopes, sinks, key_lengths, seed = given[:TENSORS]
    if not (mask is slopes is sinks is key_lengths is seed is None) or given.engine != "flash":
        return None
    addresses, together = [], 0
    for x in tensors:
        if not x.is_cpu or x.is_neg():
            return None
        addresses.append(address := x.data_ptr())
        together |= address
    return None if together % _ALIGNED else addresses


def _form(x: Tensor) -> _Form:
    return x.shape, x.stride(), x.dtype


@functools.lru_cache(maxsize=MOST_KEPT)
def _forward(q: _Form, k: _Form, v: _Form, rest: tuple[Any, ...]) -> PreparedForward | PreparedDecode | None:
    call = known_alone("fwd", q[::2], k[::2], v[::2], rest)
    if call is None or call.problem.batch > MOST_SEQUENCES:
        return None
    prepared = prepared_forward(call.problem, call.settings, *(_bytes(x[1], x[2]) for x in (q, k, v)))
    return prepared if prepared.addresses_suffice else None


@functools.lru_cache(maxsize=MOST_KEPT)
def _backward(
    q: _Form,
    k: _Form,
    v: _Form,
    rest: tuple[Any, ...],
    do: tuple[int, ...],
    o: tuple[int, ...],
    lse: tuple[int, ...],
) -> PreparedBackward | None:
    call = known_alone("bwd", q[::2], k[::2], v[::2], rest)
    if call is None or call.problem.batch > MOST_SEQUENCES:
        return None
    dtype = q[2]
    strides = [_bytes(x, dtype) for x in (do, q[1], k[1], v[1], o)]
    strides.append(_bytes(lse, ACCUMULATORS[dtype]))
    prepared = prepared_backward(call.problem, call.settings, *strides)
    return prepared if prepared.addresses_suffice else None


def _bytes(strides: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    return tuple(step * dtype.itemsize for step in strides)
