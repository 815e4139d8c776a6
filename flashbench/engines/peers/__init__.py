"""What other projects' engines take, told without loading their libraries.

A command is to load none: that takes seconds, starts threads, and may bind the command to a single core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from flashbench.engines import Layout, Settings
from flashbench.problem import AttentionProblem, Direction, Feature

# https://github.com/pytorch/pytorch/pull/157893 taught PyTorch's flash operator to share key heads.
_SHARES_KEY_HEADS = (2, 9)


@dataclass
class Peer:
    """The `Outline` of an engine that has no optional feature, nor says anything of blocks and memory."""

    name: str
    layout: Layout
    packages: tuple[str, ...]  # that it imports
    refuse: Callable[[AttentionProblem, Direction], str | None]
    features: frozenset[Feature] = frozenset()

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """As far as it can be told from outside; a release may refuse more when it is asked."""
        return self.refuse(problem, direction)

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


def torch_flash_refuses(problem: AttentionProblem, direction: Direction, release: str) -> str | None:
    """What PyTorch would read as another problem."""
    if reason := _torch_aligns_otherwise(problem):
        return reason
    if problem.num_heads != problem.num_kv_heads and _number(release) < _SHARES_KEY_HEADS:
        return f"num_kv_heads below num_heads needs PyTorch 2.9 or later, not {release}"
    return None


def zentorch_refuses(problem: AttentionProblem, direction: Direction) -> str | None:
    """What the operator does not take, and what it would read as another problem."""
    if direction != "fwd":
        return "zentorch_sdpa has no backward: zentorch is for inference"
    if problem.head_dim != problem.head_dim_v:
        sizes = f"{problem.head_dim_v} and {problem.head_dim}"
        return f"zentorch_sdpa needs head_dim_v equal to head_dim, not {sizes}"
    if np.dtype(problem.dtype).type(problem.scale) == 0.0:
        return "zentorch_sdpa takes a softmax_scale of 0 for its default"
    return _torch_aligns_otherwise(problem)


def onnxruntime_refuses(problem: AttentionProblem, direction: Direction) -> str | None:
    """What the operators do not take, and what they would read as another problem."""
    if direction != "fwd":
        return "ONNX Runtime's attention operators have no backward"
    if problem.dtype != "float32":
        return f"ONNX Runtime's CPU attention takes float32, not {problem.dtype}"
    if np.float32(problem.scale) == 0.0:
        return "ONNX Runtime takes a softmax_scale of 0 for its default"
    if problem.num_heads != problem.num_kv_heads:
        return _group_query_refuses(problem)
    if problem.masked and problem.seqlen_q != problem.seqlen_k:
        # Some releases let a query see the keys beyond seqlen_q, others shift the diagonal.
        return (
            "ONNX Runtime's unidirectional needs seqlen_q equal to seqlen_k,"
            f" not {problem.seqlen_q} and {problem.seqlen_k}"
        )
    return None


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


def _installed_torch_flash_refuses(problem: AttentionProblem, direction: Direction) -> str | None:
    try:
        release = version("torch")
    except PackageNotFoundError:  # it is there, by other ways than a package's: asked again once it is loaded
        return _torch_aligns_otherwise(problem)
    return torch_flash_refuses(problem, direction, release)


def _number(release: str) -> tuple[int, ...]:
    """(2, 13) of 2.13.0+cpu."""
    return tuple(int(part) for part in release.split("+")[0].split(".")[:2])


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("torch-flash", "bhsd", ("torch",), _installed_torch_flash_refuses),
        Peer("torch-math", "bhsd", ("torch",), lambda problem, direction: None),
        Peer("zentorch", "bhsd", ("torch", "zentorch"), zentorch_refuses),
        Peer("onnxruntime", "bshd", ("onnx", "onnxruntime"), onnxruntime_refuses),
    )
}
