"""Measures attention's share of a training step, with marks around every call, forward and backward."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import torch


@dataclass
class AttentionClock:
    """Nanoseconds in attention, the number of calls, and the largest problem."""

    forward_ns: int = 0
    backward_ns: int = 0
    calls: int = 0
    largest: tuple[int, ...] = (0,) * 6  # batch, heads, seqlen_q, seqlen_k, head_dim, head_dim_v
    backward_began: int = 0  # perf_counter_ns at the start of the last backward

    def saw(self, q: Any, k: Any, v: Any) -> None:
        *outer, seqlen_q, head_dim = q.shape
        batch, heads = (1,) * (2 - len(outer)) + tuple(outer)
        found = batch, heads, seqlen_q, k.shape[-2], head_dim, v.shape[-1]
        self.calls += 1
        self.largest = max(self.largest, found, key=lambda problem: math.prod(problem[:4]))


class _Inputs(torch.autograd.Function):
    """The identity on q, k and v. Its backward runs after attention's backward, and stops the clock."""

    @staticmethod
    def forward(ctx: Any, clock: AttentionClock, q: Any, k: Any, v: Any) -> Any:
        ctx.clock = clock
        return q.view_as(q), k.view_as(k), v.view_as(v)

    @staticmethod
    def backward(ctx: Any, dq: Any, dk: Any, dv: Any) -> Any:
        ctx.clock.backward_ns += perf_counter_ns() - ctx.clock.backward_began
        return None, dq, dk, dv


class _Output(torch.autograd.Function):
    """The identity on o. Its backward runs before attention's backward, and starts the clock."""

    @staticmethod
    def forward(ctx: Any, clock: AttentionClock, o: Any) -> Any:
        ctx.clock = clock
        return o.view_as(o)

    @staticmethod
    def backward(ctx: Any, do: Any) -> Any:
        ctx.clock.backward_began = perf_counter_ns()
        return None, do


@contextlib.contextmanager
def attention_marked(attentions: dict[str, Callable[..., Any]], name: str) -> Iterator[AttentionClock]:
    """Within the block, the attention of that name adds its times to the clock.

    Results do not change: the marks are autograd identities, and cost some microseconds per call.
    """
    clock, inner = AttentionClock(), attentions[name]

    def marked(q: Any, k: Any, v: Any, *arguments: Any, **named: Any) -> Any:
        clock.saw(q, k, v)
        q, k, v = _Inputs.apply(clock, q, k, v)
        start = perf_counter_ns()
        o = inner(q, k, v, *arguments, **named)
        clock.forward_ns += perf_counter_ns() - start
        return _Output.apply(clock, o)

    attentions[name] = marked
    try:
        yield clock
    finally:
        attentions[name] = inner
