"""AMD's zentorch: the operator by which its compiler replaces PyTorch's CPU flash attention."""

from __future__ import annotations

from typing import Any

import torch
import zentorch  # registers its operators with torch

from flashbench.engines.peers import ZentorchOutline
from flashbench.engines.peers.torch_tensors import array, set_threads, tensor
from flashbench.engines.protocol import Array, Forward, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction

_PEER = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
# Long enough for two kernels to differ in at least one rounding.
_PROBE_SEQLEN = 512
_NOTES = {
    "flash": "zentorch ran its own flash kernel instead of ZenDNN's",
    "PyTorch's flash": "zentorch has no kernel for this dtype on this CPU and ran PyTorch's flash attention",
}


class ZentorchEngine(ZentorchOutline):
    """`torch.ops.zentorch.zentorch_sdpa`: what `torch.compile(model, backend="zentorch")` and vLLM call.

    It runs one of three kernels. A NaN leaks through the mask of each, as it does in PyTorch's.

    - ZenDNN's, the default. It never writes the lse that it returns, so the engine drops it.
    - zentorch's own, with ZENTORCH_USE_ZENDNN_SDPA=0.
    - PyTorch's, where the other two have no code for the dtype on this CPU, as for float64.

    In float16 the first two err as much as bfloat16 does, several times what plain float16 does: a study
    measures them and calls them wrong.
    """

    summary = "AMD's zentorch in PyTorch, forward only"

    def __init__(self) -> None:
        if not hasattr(torch.ops.zentorch, "zentorch_sdpa"):
            raise ImportError(f"zentorch {zentorch.__version__} has no operator zentorch_sdpa")
        self._operator = torch.ops.zentorch.zentorch_sdpa
        self._kernels: dict[tuple[str, bool, int], str] = {}

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
        """o, and lse if the kernel writes one."""
        set_threads(settings.num_threads)
        o, lse = self._call(problem, tensor(q), tensor(k), tensor(v))
        return Forward(array(o), None if self._kernel(problem) == "ZenDNN" else array(lse))

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """The kernel that ran a small problem like this one, observed by its results."""
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
        """ZenDNN's kernel leaves the fill value of new memory in lse; PyTorch's gives PyTorch's bits."""
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
    """Make torch fill new memory with NaN, as its deterministic mode does."""

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
