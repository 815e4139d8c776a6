"""Multi-head attention on (batch, seqlen, d_model): project, split into heads, attend, merge, project."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from flashbench.arguments import Call, as_array, as_count, as_flag, as_size, find_engine, prepare
from flashbench.arguments.arrays import as_published, as_stored, check_dtype, check_same_dtype, dtype_of
from flashbench.dtypes import DEFAULT_DTYPE, DTYPES, Dtype
from flashbench.engines import Array, Forward, Settings
from flashbench.errors import AttentionError
from flashbench.modules.flash_attention import check_dropout
from flashbench.problem import MAX_HEAD_DIM, AttentionProblem, Direction


class AttentionMode(Enum):
    """The engine of `MultiHeadAttention`; the value is its name."""

    FLASH = "flash"
    STANDARD = "standard"


@dataclass(frozen=True)
class MultiHeadAttentionConfig:
    """Settings of `MultiHeadAttention`. Raises AttentionError if one breaks a rule.

    d_model: width of the model, a multiple of num_heads.
    num_kv_heads: None is num_heads. With fewer, neighbouring query heads share a key head.
    flash_block_size: as `FlashAttentionConfig.block_size`, for mode FLASH.
    dropout: must be 0.0 in this version.
    causal: a query sees no later key.
    """

    d_model: int
    num_heads: int
    num_kv_heads: int | None = None
    mode: AttentionMode = AttentionMode.FLASH
    flash_block_size: int | None = 64
    dropout: float = 0.0
    causal: bool = False

    def __post_init__(self) -> None:
        as_size("d_model", self.d_model)
        as_size("num_heads", self.num_heads)
        as_count("num_kv_heads", self.num_kv_heads)
        as_count("flash_block_size", self.flash_block_size)
        as_flag("causal", self.causal)
        check_dropout(self.dropout)
        if not isinstance(self.mode, AttentionMode):
            raise AttentionError(
                f"mode must be one of {', '.join(map(str, AttentionMode))}, not {self.mode!r}"
            )
        if self.d_model % self.num_heads:
            raise AttentionError(
                f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads})"
            )
        if self.head_dim > MAX_HEAD_DIM:
            raise AttentionError(
                f"d_model / num_heads must be at most {MAX_HEAD_DIM}, not {self.d_model} / {self.num_heads}"
            )
        if self.num_heads % self.key_heads:
            raise AttentionError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads

    @property
    def key_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


class ProjectionWeights(NamedTuple):
    """Linear maps x @ w + b before and after the heads; None leaves that step out.

    w_q, w_o: (d_model, d_model); w_k, w_v: (d_model, num_kv_heads * head_dim); b_q, b_o: (d_model,);
    b_k, b_v: (num_kv_heads * head_dim,). The matrices are the transposes of PyTorch's Linear.weight.
    """

    w_q: Array | None = None
    w_k: Array | None = None
    w_v: Array | None = None
    w_o: Array | None = None
    b_q: Array | None = None
    b_k: Array | None = None
    b_v: Array | None = None
    b_o: Array | None = None


class MultiHeadGradients(NamedTuple):
    """Gradients in the shapes of q, k and v, and of the weights; None for a weight that is None."""

    dq: Array
    dk: Array
    dv: Array
    weights: ProjectionWeights


class MemoryUsage(NamedTuple):
    """Peak bytes of attention in each mode, beyond its inputs and outputs."""

    flash_bytes: int
    standard_bytes: int

    @property
    def savings(self) -> float:
        """standard_bytes / flash_bytes."""
        return self.standard_bytes / self.flash_bytes


class _Step(NamedTuple):
    """The parts of the last forward that backward needs."""

    inputs: tuple[Array, Array, Array]
    call: Call
    forward: Forward
    merged: Array


class MultiHeadAttention:
    """Exact attention on model-wide arrays, by flash or by standard attention.

    >>> import numpy as np
    >>> attention = MultiHeadAttention(MultiHeadAttentionConfig(d_model=8, num_heads=2))
    >>> x = np.ones((1, 4, 8))
    >>> bool(np.allclose(attention.forward(x, x, x), x))
    True
    """

    def __init__(self, config: MultiHeadAttentionConfig, weights: ProjectionWeights | None = None) -> None:
        """Raises AttentionError if a weight does not have the shape in `ProjectionWeights`."""
        self.config = config
        if not isinstance(weights, ProjectionWeights | None):
            raise AttentionError(f"weights must be ProjectionWeights or None, not {type(weights).__name__}")
        narrow = config.key_heads * config.head_dim
        widths = {"q": config.d_model, "k": narrow, "v": narrow, "o": config.d_model}
        checked: dict[str, Array] = {}
        for name, value in (weights or ProjectionWeights())._asdict().items():
            if value is None:
                continue
            kind, part = name.split("_")
            shape = (config.d_model, widths[part]) if kind == "w" else (widths[part],)
            checked[name] = as_array(name, value)
            if checked[name].shape != shape:
                raise AttentionError(f"{name} must have shape {shape}, not {checked[name].shape}")
        self.weights = ProjectionWeights(**checked)
        self._last: _Step | None = None

    def forward(self, q: Any, k: Any, v: Any, *, keep: bool = True) -> Array:
        """Attention of every head, merged: (batch, seqlen_q, d_model).

        q: (batch, seqlen_q, d_model). k, v: (batch, seqlen_k, d_model) with a projection, else
        (batch, seqlen_k, num_kv_heads * head_dim). keep: False keeps nothing for `backward`.
        Raises AttentionError.
        """
        inputs = (self._input("q", q), self._input("k", k), self._input("v", v))
        heads = (self.config.num_heads, self.config.key_heads, self.config.key_heads)
        projected = (self._project(name, x) for name, x in zip("qkv", inputs, strict=True))
        block_size = self.config.flash_block_size if self.config.mode is AttentionMode.FLASH else None
        call = prepare(
            "fwd",
            *map(_split, projected, heads),
            causal=self.config.causal,
            engine=self.config.mode.value,
            block_q=block_size,
            block_k=block_size,
        )
        forward = call.forward(keep=keep)
        merged = _merge(call.give(forward.o))
        self._last = _Step(inputs, call, forward, merged) if keep else None
        return self._project("o", merged)

    def backward(self, do: Any) -> MultiHeadGradients:
        """Gradients of sum(do * o) by the q, k and v of the last forward, and by the weights.

        do: (batch, seqlen_q, d_model). Raises AttentionError, also if no forward was kept.
        """
        if self._last is None:
            raise AttentionError("backward has no forward to go back through", hint="call forward first")
        (q, k, v), call, forward, merged = self._last
        do = as_array("do", do)
        dtype = call.problem.dtype
        if do.shape != merged.shape or dtype_of(do.dtype) != dtype:
            raise AttentionError(
                f"do must be {dtype} of shape {merged.shape}, as o is, not {do.dtype} of {do.shape}"
            )
        # Forward: o = merged @ w_o + b_o.
        d_merged, dw_o, db_o = self._project_backward("o", merged, do)
        d_heads = call.take("do", _split(d_merged, self.config.num_heads), "o")
        of_heads = call.give_gradients(call.backward(d_heads, forward))
        # Forward: heads = split(x @ w + b).
        dq, dw_q, db_q = self._project_backward("q", q, _merge(of_heads.dq))
        dk, dw_k, db_k = self._project_backward("k", k, _merge(of_heads.dk))
        dv, dw_v, db_v = self._project_backward("v", v, _merge(of_heads.dv))
        weights = ProjectionWeights(dw_q, dw_k, dw_v, dw_o, db_q, db_k, db_v, db_o)
        return MultiHeadGradients(dq, dk, dv, weights)

    def memory_usage(
        self, batch: int, seqlen: int, *, dtype: Dtype = DEFAULT_DTYPE, direction: Direction = "fwd"
    ) -> MemoryUsage:
        """Bytes that attention would need in each mode, without projections. Nothing runs.

        Raises AttentionError.
        """
        problem = AttentionProblem.of(
            seqlen,
            batch=batch,
            num_heads=self.config.num_heads,
            num_kv_heads=self.config.key_heads,
            head_dim=self.config.head_dim,
            dtype=dtype,
            causal=self.config.causal,
        )
        block_size = self.config.flash_block_size
        flash = find_engine("flash").workspace_bytes(problem, direction, Settings(block_size, block_size))
        standard = find_engine("standard").workspace_bytes(problem, direction, Settings())
        assert flash is not None  # both engines can compute it
        assert standard is not None
        return MemoryUsage(flash, standard)

    def _input(self, name: str, value: Any) -> Array:
        x = as_array(name, value)
        heads = self.config.num_heads if name == "q" else self.config.key_heads
        projected = getattr(self.weights, f"w_{name}") is not None
        width = self.config.d_model if projected else heads * self.config.head_dim
        if x.ndim != 3 or x.shape[2] != width:
            raise AttentionError(f"{name} must have shape (batch, seqlen, {width}), not {x.shape}")
        for key, weight in self.weights._asdict().items():
            if weight is not None:
                check_same_dtype(name, x, key, check_dtype(key, weight))
        return x

    def _project(self, name: str, x: Array) -> Array:
        """x @ w + b, without the weights that are None."""
        w, b = getattr(self.weights, f"w_{name}"), getattr(self.weights, f"b_{name}")
        if w is None and b is None:
            return x
        dtype = check_dtype(name, x)
        y = _numbers(x)
        y = y if w is None else y @ _numbers(w)
        return _rounded(y if b is None else y + _numbers(b), dtype)

    def _project_backward(self, name: str, x: Array, dy: Array) -> tuple[Array, Array | None, Array | None]:
        """dx, dw and db of y = x @ w + b."""
        w, b = getattr(self.weights, f"w_{name}"), getattr(self.weights, f"b_{name}")
        dtype, dy_numbers = check_dtype(name, dy), _numbers(dy)
        db = None if b is None else _rounded(dy_numbers.sum(axis=(0, 1)), dtype)
        if w is None:
            return dy, None, db
        dw = np.tensordot(_numbers(x), dy_numbers, axes=((0, 1), (0, 1)))
        return _rounded(dy_numbers @ _numbers(w).T, dtype), _rounded(dw, dtype), db


def _numbers(x: Array) -> Array:
    """The caller's array as its accumulators, in which projections are computed."""
    dtype = check_dtype("x", x)
    return DTYPES[dtype].view(as_stored(x, dtype))


def _rounded(x: Array, dtype: Dtype) -> Array:
    """Numbers in `dtype`, as callers pass such arrays."""
    return as_published(DTYPES[dtype].make(x), dtype)


def _split(x: Array, num_heads: int) -> Array:
    """(batch, seqlen, width) to (batch, num_heads, seqlen, head_dim), without a copy."""
    batch, seqlen, width = x.shape
    return x.reshape(batch, seqlen, num_heads, width // num_heads).swapaxes(1, 2)


def _merge(x: Array) -> Array:
    """The inverse of `_split`: (batch, num_heads, seqlen, head_dim) to (batch, seqlen, width)."""
    batch, num_heads, seqlen, head_dim = x.shape
    return x.swapaxes(1, 2).reshape(batch, seqlen, num_heads * head_dim)
