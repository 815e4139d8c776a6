"""AMD's zentorch: the operator that its compiler puts in the place of PyTorch's CPU flash attention."""

from __future__ import annotations

from typing import Any

import torch
import zentorch  # registers its operators with torch

from flashbench.engines import Array, AttentionGradients, Forward, Layout, Ran, Settings
from flashbench.engines.peers import zentorch_refuses
from flashbench.engines.peers.torch_tensors import set_threads, tensor
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature

_PEER = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
# Long enough for another kernel to round differently somewhere.
_PROBE_SEQLEN = 512
_NOTES = {
    "flash": "zentorch ran its own flash kernel instead of ZenDNN's",
    "PyTorch's flash": "zentorch has no kernel for this dtype on this CPU and ran PyTorch's flash attention",
}


class ZentorchEngine:
    """`torch.ops.zentorch.zentorch_sdpa`: what `torch.compile(model, backend="zentorch")` and vLLM call.

    Behind it are three kernels. ZenDNN's, the default, leaves the lse that it returns as it found it,
    which is another call's memory, so that none is given then. zentorch's own takes its place where
    ZENTORCH_USE_ZENDNN_SDPA=0 asks for that, and PyTorch's wherever neither has code for the dtype and the
    CPU, as for float64. A NaN leaks through the mask as in PyTorch's.
    """

    name = "zentorch"
    summary = "AMD's zentorch in PyTorch, forward only"
    layout: Layout = "bhsd"
    features: frozenset[Feature] = frozenset()

    def __init__(self) -> None:
        if not hasattr(torch.ops.zentorch, "zentorch_sdpa"):
            raise ImportError(f"zentorch {zentorch.__version__} has no operator zentorch_sdpa")
        self._operator = torch.ops.zentorch.zentorch_sdpa
        self._kernels: dict[tuple[str, bool, int], str] = {}

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """What the operator does not take, and what it would read as another problem."""
        return zentorch_refuses(problem, direction)

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """o, and lse where the kernel writes one."""
        set_threads(settings.num_threads)
        o, lse = self._call(problem, tensor(q), tensor(k), tensor(v))
        return Forward(o.numpy(), None if self._kernel(problem) == "ZenDNN" else lse.numpy())

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        """There is none: `unsupported` says so."""
        raise NotImplementedError(self.unsupported(problem, "bwd"))

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """None: its block sizes are its own affair."""
        return None

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """None: unknown without running."""
        return None

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """Told by what the operator leaves behind on a small problem like this one."""
        kernel = self._kernel(problem)
        return Ran(kernel, _NOTES.get(kernel))

    def _call(self, problem: AttentionProblem, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        o, lse = self._operator(q, k, v, 0.0, problem.masked, scale=problem.scale)
        return o, lse

    def _kernel(self, problem: AttentionProblem) -> str:
        """zentorch chooses by dtype, CPU and environment, not by lengths, heads or batch."""
        key = (problem.dtype, problem.masked, problem.head_dim)
        if key not in self._kernels:
            self._kernels[key] = self._observed_kernel(problem)
        return self._kernels[key]

    def _observed_kernel(self, problem: AttentionProblem) -> str:
        """A kernel that writes no lse leaves in it what its memory was filled with."""
        small = AttentionProblem.of(
            _PROBE_SEQLEN, head_dim=problem.head_dim, dtype=problem.dtype, causal=problem.masked
        )
        q, k, v, _ = (tensor(x) for x in small.make_inputs())
        with _FilledMemory():
            o, lse = self._call(small, q, k, v)
        if bool(lse.isnan().all()):
            return "ZenDNN"
        expected, expected_lse = _PEER(q, k, v, 0.0, small.masked, scale=small.scale)
        same = torch.equal(o, expected) and torch.equal(lse, expected_lse)
        return "PyTorch's flash" if same else "flash"


class _FilledMemory:
    """Has torch fill new memory with NaN, as its deterministic mode does."""

    def __enter__(self) -> None:
        self._before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        )
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True

    def __exit__(self, *error: object) -> None:
        enabled, warn_only, fill = self._before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill
