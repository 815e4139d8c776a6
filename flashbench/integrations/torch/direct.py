"""Calls of engine `flash` by the addresses of tensors, without an array.

To make a NumPy array of each tensor would take as long as the attention of a small problem. A part of a call
that only depends on the shapes, strides and dtypes of its tensors is made once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flashbench.engines.flash.backward import PreparedBackward, prepared_backward
from flashbench.engines.flash.decode import PreparedDecode
from flashbench.engines.flash.forward import PreparedForward, prepared_forward
from flashbench.engines.flash.prepared import MOST_KEPT, MOST_SEQUENCES
from flashbench.engines.forms import Result
from flashbench.engines.launch import address_of
from flashbench.integrations.torch.arrays import ACCUMULATORS
from flashbench.integrations.torch.calls import known_call
from flashbench.integrations.torch.options import TENSORS, Options
from flashbench.integrations.torch.runtime import num_threads, on_torch_threads
from flashbench.integrations.torch.sdpa_arguments import why_not
from flashbench.integrations.torch.statistics import counted

_Form = tuple[torch.Size, tuple[int, ...], torch.dtype]  # shape, strides in elements, dtype
_ALIGNED = 8  # bytes: whole elements of every dtype


class _Ready(NamedTuple):
    """A prepared call, and the tensors that it fills."""

    prepared: PreparedForward | PreparedDecode | PreparedBackward
    results: tuple[tuple[Result, torch.dtype], ...]

    def first(self, q: Tensor, addresses: list[int]) -> Tensor:
        """o alone. addresses: of the inputs."""
        (o, _), (lse, _) = self.results
        made, unused = q.new_empty(o.shape), lse.make()
        addresses += (made.data_ptr(), address_of(unused))
        self._run(addresses)
        return made.transpose(1, 2) if o.by_rows else made

    def all(self, q: Tensor, addresses: list[int]) -> list[Tensor]:
        """All results. addresses: of the inputs."""
        made = []
        for (shape, _, _, zeros), dtype in self.results:
            x = (q.new_zeros if zeros else q.new_empty)(shape, dtype=dtype)
            made.append(x)
            addresses.append(x.data_ptr())
        self._run(addresses)
        kinds = (kind for kind, _ in self.results)
        return [x.transpose(1, 2) if kind.by_rows else x for x, kind in zip(made, kinds, strict=True)]

    def _run(self, addresses: list[int]) -> None:
        prepared = self.prepared
        if prepared.most_threads == 1:
            prepared.run_at(*addresses, num_threads=1)
            return
        with on_torch_threads():
            prepared.run_at(*addresses, num_threads=num_threads())


def output_at(q: Tensor, k: Tensor, v: Tensor, given: Options) -> Tensor | None:
    """o of plain tensors with contiguous rows; None: the call must go by arrays.

    Raises AttentionError, UnsupportedError and EngineError, as `call_of`.
    """
    addresses = None if _needs_arrays(given) else _addresses(q, k, v)
    if addresses is None:
        return None
    ready = _forward(_form(q), _form(k), _form(v), given[TENSORS:])
    if ready is None:
        return None
    counted("forward")
    return ready.first(q, addresses)


def forward_at(q: Tensor, k: Tensor, v: Tensor, given: Options) -> list[Tensor] | None:
    """o and lse, as `output_at`."""
    addresses = None if _needs_arrays(given) else _addresses(q, k, v)
    if addresses is None:
        return None
    ready = _forward(_form(q), _form(k), _form(v), given[TENSORS:])
    if ready is None:
        return None
    counted("forward")
    return ready.all(q, addresses)


def backward_at(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, given: Options
) -> list[Tensor] | None:
    """dq, dk and dv, as `forward_at`. o and lse are its results, or have their shapes and dtypes."""
    addresses = None if _needs_arrays(given) else _addresses(do, q, k, v, o, lse)
    if addresses is None:
        return None
    strides = do.stride(), o.stride(), lse.stride()
    ready = _backward(_form(q), _form(k), _form(v), given[TENSORS:], *strides)
    if ready is None:
        return None
    counted("backward")
    return ready.all(q, addresses)


def sdpa_at(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    *blocks: int | None,
) -> Tensor | None:
    """o of a `scaled_dot_product_attention` without mask and dropout; None: the call must go another way."""
    addresses = _addresses(query, key, value)
    if addresses is None or (scale is not None and type(scale) is not float):
        return None
    ready = _sdpa(_form(query), _form(key), _form(value), is_causal, scale, enable_gqa, *blocks)
    if ready is None:
        return None
    counted("forward")
    return ready.first(query, addresses)


def _needs_arrays(given: Options) -> bool:
    """Whether some options are tensors, or the engine is another."""
    a, b, c, d, e, f, g, h = given[:TENSORS]  # a loop would take longer than the rest of a short call
    return not (a is b is c is d is e is f is g is h is None) or given.engine != "flash"


def _addresses(*tensors: Tensor) -> list[int] | None:
    """Where the tensors' numbers are. None: not in aligned memory of the CPU, row by row."""
    addresses, together = [], 0
    for x in tensors:
        if not x.is_cpu or x.is_neg() or x.is_nested or x.layout is not torch.strided:
            return None
        addresses.append(address := x.data_ptr())
        together |= address
    return None if together % _ALIGNED else addresses


def _form(x: Tensor) -> _Form:
    return x.shape, x.stride(), x.dtype


@functools.lru_cache(maxsize=MOST_KEPT)
def _forward(q: _Form, k: _Form, v: _Form, rest: tuple[Any, ...]) -> _Ready | None:
    call = known_call("fwd", q[::2], k[::2], v[::2], rest)
    if call.problem.batch > MOST_SEQUENCES:
        return None
    prepared = prepared_forward(call.problem, call.settings, *(_bytes(x[1], x[2]) for x in (q, k, v)))
    return _ready(prepared, (q[2], ACCUMULATORS[q[2]]))


@functools.lru_cache(maxsize=MOST_KEPT, typed=True)  # 1 is no is_causal
def _sdpa(
    q: _Form,
    k: _Form,
    v: _Form,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    *blocks: int | None,
) -> _Ready | None:
    if len(q[0]) != 4:
        return None
    query, key, value = (torch.empty((), dtype=x[2], device="cpu").expand(x[0]) for x in (q, k, v))
    if why_not(query, key, value, None, 0.0, is_causal, scale, enable_gqa) is not None:
        return None
    options = Options(
        softmax_scale=scale,
        causal=is_causal,
        causal_alignment="top-left",
        block_q=blocks[0],
        block_k=blocks[1],
    )
    return _forward(q, k, v, options[TENSORS:])


@functools.lru_cache(maxsize=MOST_KEPT)
def _backward(
    q: _Form,
    k: _Form,
    v: _Form,
    rest: tuple[Any, ...],
    do: tuple[int, ...],
    o: tuple[int, ...],
    lse: tuple[int, ...],
) -> _Ready | None:
    call = known_call("bwd", q[::2], k[::2], v[::2], rest)
    if call.problem.batch > MOST_SEQUENCES:
        return None
    dtype = q[2]
    strides = [_bytes(x, dtype) for x in (do, q[1], k[1], v[1], o)]
    strides.append(_bytes(lse, ACCUMULATORS[dtype]))
    prepared = prepared_backward(call.problem, call.settings, *strides)
    return _ready(prepared, (dtype,) * 3)


def _ready(prepared: Any, dtypes: Sequence[torch.dtype]) -> _Ready | None:
    if not prepared.addresses_suffice:
        return None
    return _Ready(prepared, tuple(zip(prepared.results, dtypes, strict=True)))


def _bytes(strides: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    return tuple(step * dtype.itemsize for step in strides)
