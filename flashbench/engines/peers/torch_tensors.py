"""Helpers of the PyTorch engines: NumPy arrays as tensors, threads, and gradients through autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from flashbench.engines.protocol import Array, AttentionGradients, Forward
from flashbench.system.cores import available_cores

Attend = Callable[[Any, Any, Any], Any]  # q, k and v to o


class Graph(NamedTuple):
    """A forward that autograd can differentiate, any number of times."""

    o: Any
    leaves: list[Any]  # q, k, v


def tensor(x: Array) -> Any:
    """A tensor that shares the array's memory; a copy where torch cannot take its strides.

    Arrays of 16-bit patterns are bfloat16 tensors.
    """
    shareable = (
        x.flags.writeable
        and x.flags.aligned
        and x.strides[-1] == x.itemsize
        and all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
    )
    own = x if shareable else x.copy(order="C")
    if own.dtype == np.uint16:
        return torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(own)


def array(x: Any) -> Array:
    """The tensor's memory as an array; bfloat16 as 16-bit patterns, which NumPy has no dtype for."""
    if x.dtype == torch.bfloat16:
        patterns: Array = x.view(torch.int16).numpy().view(np.uint16)
        return patterns
    numbers: Array = x.numpy()
    return numbers


def set_threads(num_threads: int | None) -> None:
    """Set PyTorch's threads, at every call: the number is the process's, and another call may have set it."""
    wanted = num_threads or available_cores()
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def forward_with_graph(attend: Attend, q: Array, k: Array, v: Array, *, keep: bool) -> Forward:
    """o alone; keep=True saves the graph, which holds P, for the backward."""
    leaves = [tensor(x) for x in (q, k, v)]
    if not keep:
        with torch.no_grad():
            return Forward(array(attend(*leaves)), None)
    with torch.enable_grad():
        o = attend(*(leaf.requires_grad_() for leaf in leaves))
    return Forward(array(o.detach()), None, Graph(o, leaves))


def backward_through(graph: Graph, do: Array) -> AttentionGradients:
    """Autograd's gradients; the graph stays usable."""
    gradients = torch.autograd.grad(graph.o, graph.leaves, tensor(do), retain_graph=True)
    return AttentionGradients(*map(array, gradients))
