"""Helpers of the PyTorch engines: NumPy arrays as tensors, threads, and gradients through autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from flashbench.engines.protocol import Array, AttentionGradients, Forward
from flashbench.system.cores import available_cores

Attend = Callable[[Any, Any, Any], Any]  # q, k and v to o


class Graph(NamedTuple):
    """A forward that autograd can differentiate, any number of times."""

    o: Any
    leaves: list[Any]  # q, k, v


def tensor(x: Array) -> Any:
    """A tensor that shares the array's memory; a copy where torch cannot take its strides."""
    shareable = (
        x.flags.writeable
        and x.flags.aligned
        and x.strides[-1] == x.itemsize
        and all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
    )
    return torch.from_numpy(x if shareable else x.copy(order="C"))


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
            return Forward(attend(*leaves).numpy(), None)
    with torch.enable_grad():
        o = attend(*(leaf.requires_grad_() for leaf in leaves))
    return Forward(o.detach().numpy(), None, Graph(o, leaves))


def backward_through(graph: Graph, do: Array) -> AttentionGradients:
    """Autograd's gradients; the graph stays usable."""
    gradients = torch.autograd.grad(graph.o, graph.leaves, tensor(do), retain_graph=True)
    return AttentionGradients(*(x.numpy() for x in gradients))
