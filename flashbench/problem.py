"""An attention problem: shapes, dtype and masking, and what it costs by definition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from flashbench.errors import AttentionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Direction = Literal["fwd", "bwd", "fwd_bwd"]
CausalAlignment = Literal["bottom-right", "top-left"]
Dtype = Literal["float32", "float64"]

ITEMSIZE: dict[str, int] = {"float32": 4, "float64": 8}
MAX_HEAD_DIM = 256


class Inputs(NamedTuple):
    """q and do: (batch, num_heads, seqlen_q, ...); k and v: (batch, num_kv_heads, seqlen_k, ...)."""

    q: NDArray[np.floating]
    k: NDArray[np.floating]
    v: NDArray[np.floating]
    do: NDArray[np.floating]


class AttentionProblem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes, dtype and masking of one attention call; `AttentionProblem.of` fills in the defaults.

    Raises AttentionError when a rule is broken, also when read from a file.
    """

    batch: int
    num_heads: int
    num_kv_heads: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    head_dim_v: int
    dtype: Dtype
    causal: bool
    causal_alignment: CausalAlignment = "bottom-right"
    softmax_scale: float | None = None  # None: 1 / sqrt(head_dim)

    def __post_init__(self) -> None:
        for name in ("batch", "num_heads", "num_kv_heads", "seqlen_q", "seqlen_k", "head_dim", "head_dim_v"):
            if getattr(self, name) < 1:
                raise AttentionError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("head_dim", "head_dim_v"):
            if getattr(self, name) > MAX_HEAD_DIM:
                raise AttentionError(f"{name} must be at most {MAX_HEAD_DIM}, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise AttentionError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})"
            )
        if self.softmax_scale is not None and not math.isfinite(self.softmax_scale):
            raise AttentionError(f"softmax_scale must be finite, not {self.softmax_scale}")

    @classmethod
    def of(
        cls,
        seqlen_q: int,
        *,
        seqlen_k: int | None = None,
        batch: int = 1,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int = 64,
        head_dim_v: int | None = None,
        dtype: Dtype = "float64",
        causal: bool = False,
        causal_alignment: CausalAlignment = "bottom-right",
        softmax_scale: float | None = None,
    ) -> AttentionProblem:
        """A problem whose unnamed sizes follow the named ones: seqlen_k = seqlen_q, and so on.

        >>> AttentionProblem.of(128, num_heads=4, num_kv_heads=2, causal=True).visible_pairs
        8256
        """
        return cls(
            batch=batch,
            num_heads=num_heads,
            num_kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
            seqlen_q=seqlen_q,
            seqlen_k=seqlen_q if seqlen_k is None else seqlen_k,
            head_dim=head_dim,
            head_dim_v=head_dim if head_dim_v is None else head_dim_v,
            dtype=dtype,
            causal=causal,
            causal_alignment=causal_alignment,
            softmax_scale=softmax_scale,
        )

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.head_dim) if self.softmax_scale is None else self.softmax_scale

    @property
    def diagonal_offset(self) -> int:
        """Query i sees the keys up to i + diagonal_offset when causal."""
        return self.seqlen_k - self.seqlen_q if self.causal_alignment == "bottom-right" else 0

    @property
    def visible_pairs(self) -> int:
        """Pairs (query, key) of one head that the mask lets through, counted exactly."""
        if not self.causal:
            return self.seqlen_q * self.seqlen_k
        # Row i sees clip(i + offset + 1, 0, seqlen_k) keys: zeros, then a ramp, then full rows.
        first = max(0, -self.diagonal_offset)  # first row that sees a key
        full = max(0, min(self.seqlen_q, self.seqlen_k - self.diagonal_offset))  # first row that sees all
        ramp = max(0, full - first)
        low = first + self.diagonal_offset + 1
        return ramp * (2 * low + ramp - 1) // 2 + (self.seqlen_q - max(first, full)) * self.seqlen_k

    @property
    def masked(self) -> bool:
        """Whether the causal mask hides anything: the one query of a decoding step sees every key."""
        return self.visible_pairs < self.seqlen_q * self.seqlen_k

    def flops(self, direction: Direction) -> int:
        """Multiply-adds count two. Forward: q k^T and p v. Backward: those two scores again
        (q k^T, do v^T) and dv, dk, dq, which is 2.5 times the forward when head_dim_v = head_dim
        (Dao et al. 2022, FlashAttention, algorithm 4). Softmax is not counted.
        """
        pairs = self.batch * self.num_heads * self.visible_pairs
        forward = 2 * pairs * (self.head_dim + self.head_dim_v)
        backward = 2 * pairs * (3 * self.head_dim + 2 * self.head_dim_v)
        return {"fwd": forward, "bwd": backward, "fwd_bwd": forward + backward}[direction]

    @property
    def _q_bytes(self) -> int:
        return self.batch * self.num_heads * self.seqlen_q * self.head_dim * self.itemsize

    @property
    def _kv_bytes(self) -> int:
        return (
            self.batch * self.num_kv_heads * self.seqlen_k * (self.head_dim + self.head_dim_v) * self.itemsize
        )

    @property
    def _o_bytes(self) -> int:
        return self.batch * self.num_heads * self.seqlen_q * self.head_dim_v * self.itemsize

    @property
    def _lse_bytes(self) -> int:
        return self.batch * self.num_heads * self.seqlen_q * self.itemsize

    def input_bytes(self, direction: Direction) -> int:
        """q, k, v; the backward also reads do, o and lse (from a forward before it, or given)."""
        forward = self._q_bytes + self._kv_bytes
        if direction == "fwd":
            return forward
        extra = self._o_bytes if direction == "fwd_bwd" else 2 * self._o_bytes + self._lse_bytes
        return forward + extra

    def output_bytes(self, direction: Direction) -> int:
        """o and lse; dq, dk and dv."""
        forward = self._o_bytes + self._lse_bytes
        backward = self._q_bytes + self._kv_bytes
        return {"fwd": forward, "bwd": backward, "fwd_bwd": forward + backward}[direction]

    def make_inputs(self, seed: int = 0) -> Inputs:
        """Standard normal q, k, v and do, the same for the same seed on every machine."""
        import numpy as np

        rng = np.random.default_rng(seed)
        q_shape = (self.batch, self.num_heads, self.seqlen_q)
        k_shape = (self.batch, self.num_kv_heads, self.seqlen_k)
        dtype = np.dtype(self.dtype)
        shapes = (
            (*q_shape, self.head_dim),
            (*k_shape, self.head_dim),
            (*k_shape, self.head_dim_v),
            (*q_shape, self.head_dim_v),
        )
        return Inputs(*(rng.standard_normal(shape).astype(dtype, copy=False) for shape in shapes))
