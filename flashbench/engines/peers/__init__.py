"""Other projects' engines, and the outlines that describe them without loading their libraries.

Loading one takes seconds, starts threads, and may bind the command to a single core. So a command asks the
outline, and the engine, which inherits from it, loads the library in a worker.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np

from flashbench.dtypes import NARROWEST_FIRST, accumulator_of
from flashbench.engines.base import EngineBase
from flashbench.engines.peers.hf_source import chosen_source, without_package
from flashbench.engines.protocol import Layout
from flashbench.problem import AttentionProblem, Direction

_COMPILERS = ("g++", "clang++", "cl")
# https://github.com/pytorch/pytorch/pull/157893 lets PyTorch's flash operator share key heads.
_SHARES_KEY_HEADS = (2, 9)


class PeerOutline(EngineBase):
    """All of an engine that needs no library. An installed release may refuse more once it is loaded."""

    packages: tuple[str, ...]  # that the engine imports
    dtypes = NARROWEST_FIRST  # `unsupported` says in the library's words which it does not take

    def check(self) -> None:
        """Raise EngineError for what is missing beside the packages."""


class TorchFlashOutline(PeerOutline):
    """PyTorch's flash operator."""

    name = "torch-flash"
    packages = ("torch",)

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """A causal mask that PyTorch reads as another one, and shared key heads before PyTorch 2.9."""
        if reason := _torch_aligns_otherwise(problem):
            return reason
        release = self._release()
        if release is None or problem.num_heads == problem.num_kv_heads:
            return None
        if _numbers(release) < _SHARES_KEY_HEADS:
            return f"num_kv_heads below num_heads needs PyTorch 2.9 or later, not {release}"
        return None

    def _release(self) -> str | None:
        """PyTorch's version; None: PyTorch is here without a package's metadata, and only it can say."""
        try:
            return version("torch")
        except PackageNotFoundError:
            return None


class TorchMathOutline(PeerOutline):
    """PyTorch's plain operators, which run every problem."""

    name = "torch-math"
    packages = ("torch",)


class FlexOutline(PeerOutline):
    """PyTorch's FlexAttention, compiled. Its features are functions of a score and its place."""

    name = "flex"
    packages = ("torch",)
    features = frozenset(("window", "softcap", "alibi", "mask", "key_lengths"))

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """Gradients, and a machine without a compiler for C++."""
        if direction != "fwd":
            return "FlexAttention has no backward on CPUs"
        if problem.dtype == "float64":
            return "FlexAttention takes float32, float16 and bfloat16 on CPUs, not float64"
        if not any(map(shutil.which, _COMPILERS)):
            return f"FlexAttention needs a compiler for C++ ({', '.join(_COMPILERS)}), and there is none"
        return None


class JaxOutline(PeerOutline):
    """JAX's function, which aligns causality and windows top-left."""

    name = "jax"
    layout: Layout = "bshd"
    packages = ("jax", "ml_dtypes")
    features = frozenset(("window", "mask", "key_lengths"))

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """What it would read as another problem, or refuses."""
        if (problem.masked or "window" in problem.features) and problem.diagonal_offset:
            sizes = f"{problem.seqlen_q} and {problem.seqlen_k}"
            return (
                "JAX's is_causal and local_window_size align top-left: bottom-right is the same only when "
                f"seqlen_q equals seqlen_k, not for {sizes}"
            )
        if problem.dtype == "float16":
            return "JAX's dot_product_attention takes float32, float64 and bfloat16 on CPUs, not float16"
        if problem.head_dim != problem.head_dim_v:
            sizes = f"{problem.head_dim_v} and {problem.head_dim}"
            return f"JAX's dot_product_attention needs head_dim_v equal to head_dim, not {sizes}"
        return None


class HfKernelOutline(PeerOutline):
    """Any kernel with flash-attention's interface. What it refuses itself is known once it is loaded."""

    name = "hf-kernel"
    layout: Layout = "bshd"
    packages = ("torch",)
    # No dropout: a kernel draws it from PyTorch's generator, so its results cannot be compared.
    features = frozenset(("window", "softcap", "alibi"))

    def check(self) -> None:
        """Raise EngineError if no kernel is where FLASHBENCH_HF_KERNEL says."""
        if chosen_source().repository is None:
            return
        spec = find_spec("kernels")
        if spec is None or spec.origin is None:  # no origin: a directory of that name, not a package
            raise without_package()

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """What no arguments of `flash_attn_func` mean."""
        if problem.head_dim != problem.head_dim_v:
            sizes = f"{problem.head_dim_v} and {problem.head_dim}"
            return f"flash_attn_func has one head_dim, so head_dim_v must equal it, not {sizes}"
        placed = problem.causal or problem.alibi or "window" in problem.features
        if placed and problem.diagonal_offset != problem.seqlen_k - problem.seqlen_q:
            return (
                "flash_attn_func aligns bottom-right: top-left is the same only when seqlen_q equals"
                f" seqlen_k, not for {problem.seqlen_q} and {problem.seqlen_k}"
            )
        return None


class ZentorchOutline(PeerOutline):
    """The operator of AMD's zentorch."""

    name = "zentorch"
    packages = ("torch", "zentorch")

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """What the operator refuses, and what it would read as another problem."""
        if direction != "fwd":
            return "zentorch_sdpa has no backward: zentorch is for inference"
        if problem.head_dim != problem.head_dim_v:
            sizes = f"{problem.head_dim_v} and {problem.head_dim}"
            return f"zentorch_sdpa needs head_dim_v equal to head_dim, not {sizes}"
        if np.dtype(accumulator_of(problem.dtype).storage).type(problem.scale) == 0.0:
            return "zentorch_sdpa takes a softmax_scale of 0 for its default"
        return _torch_aligns_otherwise(problem)


class OnnxOutline(PeerOutline):
    """ONNX Runtime's attention operators."""

    name = "onnxruntime"
    layout: Layout = "bshd"
    packages = ("onnx", "onnxruntime")

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """What the operators refuse, and what they would read as another problem."""
        if direction != "fwd":
            return "ONNX Runtime's attention operators have no backward"
        if problem.dtype not in ("float16", "float32"):
            return f"ONNX Runtime's CPU attention takes float32 and float16, not {problem.dtype}"
        if np.float32(problem.scale) == 0.0:
            return "ONNX Runtime takes a softmax_scale of 0 for its default"
        if needs_group_query(problem):
            return _group_query_refuses(problem)
        if problem.masked and problem.seqlen_q != problem.seqlen_k:
            # Some releases let a query see the keys beyond seqlen_q, others shift the diagonal.
            return (
                "ONNX Runtime's unidirectional needs seqlen_q equal to seqlen_k,"
                f" not {problem.seqlen_q} and {problem.seqlen_k}"
            )
        return None


def needs_group_query(problem: AttentionProblem) -> bool:
    """Whether it takes GroupQueryAttention: MultiHeadAttention shares no heads and has no float16."""
    return problem.num_heads != problem.num_kv_heads or problem.dtype == "float16"


def _group_query_refuses(problem: AttentionProblem) -> str | None:
    if problem.seqlen_q != problem.seqlen_k:
        return (
            "ONNX Runtime's GroupQueryAttention needs seqlen_q equal to seqlen_k,"
            f" not {problem.seqlen_q} and {problem.seqlen_k}"
        )
    if problem.head_dim != problem.head_dim_v:
        return (
            "ONNX Runtime's GroupQueryAttention needs head_dim_v equal to head_dim,"
            f" not {problem.head_dim_v} and {problem.head_dim}"
        )
    if problem.head_dim % 8:
        return f"ONNX Runtime's GroupQueryAttention needs head_dim in eights, not {problem.head_dim}"
    return None


def _torch_aligns_otherwise(problem: AttentionProblem) -> str | None:
    if problem.masked and problem.diagonal_offset:
        return (
            "PyTorch's is_causal aligns top-left: bottom-right is the same only when seqlen_q equals"
            f" seqlen_k, not for {problem.seqlen_q} and {problem.seqlen_k}"
        )
    if problem.masked and problem.scale <= 0.0:
        # It multiplies the masked scores, -inf, by the scale.
        return f"PyTorch's is_causal needs a softmax_scale above 0, not {problem.scale}"
    return None


def _numbers(release: str) -> tuple[int, ...]:
    """(2, 13) of 2.13.0+cpu."""
    return tuple(int(part) for part in release.split("+")[0].split(".")[:2])


PEERS: Mapping[str, PeerOutline] = {
    outline.name: outline
    for outline in (
        TorchFlashOutline(),
        TorchMathOutline(),
        FlexOutline(),
        ZentorchOutline(),
        OnnxOutline(),
        JaxOutline(),
        HfKernelOutline(),
    )
}
