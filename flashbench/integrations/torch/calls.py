"""A checked engine call on tensors. What depends only on shapes is checked once and cached.

Nothing is copied: engines read the tensors' memory. Only masks of 16-bit numbers become float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from flashbench.arguments import Call, prepare
from flashbench.engines.launch import runs_alone
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.integrations.torch.arrays import as_argument, as_stored, widened
from flashbench.integrations.torch.options import TENSORS, Options
from flashbench.integrations.torch.runtime import num_threads
from flashbench.problem import Direction

_Kind = tuple[torch.Size, torch.dtype]  # shape and dtype of a tensor


def call_of(direction: Direction, q: Tensor, k: Tensor, v: Tensor, given: Options) -> Call:
    """The call of these tensors. Raises AttentionError, UnsupportedError and EngineError."""
    mask = given.mask
    if any(x is not None for x in given[1:TENSORS]):
        # The call depends on the numbers in these tensors, not only on their shapes.
        return _prepared(direction, q, k, v, given, num_threads())
    known, alone = _known(
        direction,
        (q.shape, q.dtype),
        (k.shape, k.dtype),
        (v.shape, v.dtype),
        None if mask is None else (mask.shape, mask.dtype),
        given[TENSORS:],
    )
    settings = known.settings if alone else known.settings._replace(num_threads=num_threads())
    extras = NO_EXTRAS
    if mask is not None:
        p = known.problem
        full = p.batch, p.num_heads, p.seqlen_q, p.seqlen_k
        extras = Extras(as_stored("mask", widened(mask, q.dtype).expand(full)))
    return Call(
        known.engine,
        known.problem,
        settings,
        as_stored("q", q),
        as_stored("k", k),
        as_stored("v", v),
        known.layout,
        extras,
        known.mask_shape,
    )


def known_call(direction: Direction, q: _Kind, k: _Kind, v: _Kind, rest: tuple[Any, ...]) -> Call:
    """The call of tensors of these kinds, without their memory and its number of threads.

    rest: the options that are no tensors; those that are tensors are None.
    """
    call, _ = _known(direction, q, k, v, None, rest)
    return call


@functools.lru_cache(maxsize=1024)
def _known(
    direction: Direction,
    q: _Kind,
    k: _Kind,
    v: _Kind,
    mask: _Kind | None,
    rest: tuple[Any, ...],
) -> tuple[Call, bool]:
    """(call, alone): the checked call of tensors with these shapes and dtypes, without their memory.

    It is a call on one thread. alone: more are of no use, so that nobody needs to count them.
    """
    tensors: list[Any] = [None if mask is None else _like(mask), *[None] * (TENSORS - 1)]
    given = Options(*tensors, *rest)
    call = _prepared(direction, _like(q), _like(k), _like(v), given, threads=1)
    return call, call.engine.name in ("flash", "standard") and runs_alone(call.problem, direction)


def _like(kind: _Kind) -> Tensor:
    shape, dtype = kind
    return torch.zeros((), dtype=dtype, device="cpu").expand(shape)  # the default device may be another


def _prepared(direction: Direction, q: Tensor, k: Tensor, v: Tensor, given: Options, threads: int) -> Call:
    options: dict[str, Any] = given._asdict()
    window = options.pop("window_left"), options.pop("window_right")
    seed = options.pop("dropout_seed")
    bounds = options.pop("cu_seqlens_q"), options.pop("cu_seqlens_k")
    options = {name: as_argument(name, x) if isinstance(x, Tensor) else x for name, x in options.items()}
    if bounds[0] is not None:  # packed: the three are (total, heads, head_dim) for `attention_varlen`
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
        options["cu_seqlens"] = tuple(x.tolist() for x in bounds)
    return prepare(
        direction,
        as_argument("q", q),
        as_argument("k", k),
        as_argument("v", v),
        window=window,
        dropout_seed=None if seed is None else int(seed) % 2**64,
        num_threads=threads,
        **options,
    )
