"""An attention problem: shapes, dtype and masking, and what it costs by definition."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from flashbench.dtypes import DEFAULT_DTYPE, DTYPES, Dtype, accumulator_of
from flashbench.errors import AttentionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

Direction = Literal["fwd", "bwd", "fwd_bwd"]
CausalAlignment = Literal["bottom-right", "top-left"]
MaskKind = Literal["bool", "float", "block"]
# Options of attention beyond softmax(scale q k^T) v and the causal mask.
Feature = Literal[
    "window", "softcap", "alibi", "sinks", "mask", "key_lengths", "varlen", "dropout", "block_table"
]
Window = tuple[int | None, int | None]

MAX_HEAD_DIM = 256
# Up to so many queries, reading k and v decides the time of a call: it is a step of decoding.
MOST_DECODING_QUERIES = 16


class Inputs(NamedTuple):
    """q: (batch, num_heads, seqlen_q, head_dim), do: (batch, num_heads, seqlen_q, head_dim_v);
    k: (batch, num_kv_heads, seqlen_k, head_dim), v: (batch, num_kv_heads, seqlen_k, head_dim_v).
    """

    q: NDArray[np.floating]
    k: NDArray[np.floating]
    v: NDArray[np.floating]
    do: NDArray[np.floating]


class Sequence(NamedTuple):
    """Place and lengths of one sequence of a batch; all but batch_index count rows."""

    batch_index: int
    first_query: int
    first_key: int
    seqlen_q: int
    seqlen_k: int


_NO_DROPOUT = 0.0


class AttentionProblem(
    msgspec.Struct, frozen=True, cache_hash=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Shapes, dtype, masking and optional features of one attention call; `AttentionProblem.of` fills in
    the defaults.

    The problem only says that a feature has an array (mask, slopes, sinks, block table). `Extras` holds the
    array itself, next to q, k and v. Attention applies the features to s = scale q k^T in this order:
    softcap, ALiBi, additive mask, hidden keys (bool mask, causal mask, window, lengths), softmax with
    sinks, dropout.

    Raises AttentionError when a rule is broken, also when msgspec decodes the problem from a file.
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
    # Query i sees keys i + diagonal - window_left to i + diagonal + window_right; None: no limit.
    window_left: int | None = None
    window_right: int | None = None
    softcap: float | None = None  # s becomes softcap * tanh(s / softcap)
    alibi: bool = False  # s -= slope * |i + diagonal - j|, one slope per head
    sinks: bool = False  # one logit per head, added to the softmax's denominator
    mask: MaskKind | None = None  # bool: True = may attend; float: added to s; block: a BlockMask
    mask_axes: str = "qk"  # axes of b, h, q, k along which the mask varies; broadcast along the others
    mask_block_q: int = 64  # queries and keys per block of a block mask
    mask_block_k: int = 64
    dropout: float = _NO_DROPOUT  # the share of probabilities set to zero
    dropout_seed: int = 0
    key_lengths: tuple[int, ...] | None = None  # valid keys of each sequence; None: all
    # Queries of each sequence; needs key_lengths. The batch is then packed:
    # q is (1, num_heads, sum(query_lengths), head_dim), k is (1, num_kv_heads, sum(key_lengths), head_dim).
    query_lengths: tuple[int, ...] | None = None
    page_size: int | None = None  # k and v: (pages, num_kv_heads, page_size, ...); a block table finds pages

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
        self._check_features()
        self._check_lengths()
        if self.dropout == 0:  # omit_defaults compares by identity: 0 or -0.0 would be written to records
            msgspec.structs.force_setattr(self, "dropout", _NO_DROPOUT)

    def _check_features(self) -> None:
        for name in ("window_left", "window_right"):
            keys = getattr(self, name)
            if keys is not None and keys < 0:
                raise AttentionError(f"{name} must be at least 0, or None for no limit, not {keys}")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise AttentionError(f"softcap must be above 0 and finite, not {self.softcap}")
        if not 0 <= self.dropout < 1:
            raise AttentionError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not 0 <= self.dropout_seed < 2**64:
            raise AttentionError(f"dropout_seed must be at least 0 and below 2**64, not {self.dropout_seed}")
        if "".join(axis for axis in "bhqk" if axis in self.mask_axes) != self.mask_axes:
            raise AttentionError(
                f"mask_axes must be some of b, h, q, k in this order, not {self.mask_axes!r}"
            )
        if self.mask == "block" and not self.mask_axes.endswith("qk"):
            raise AttentionError(f"mask_axes of a block mask must have q and k, not be {self.mask_axes!r}")
        for name in ("mask_block_q", "mask_block_k", "page_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise AttentionError(f"{name} must be at least 1, not {size}")

    def _check_lengths(self) -> None:
        for name, longest in (("query_lengths", self.seqlen_q), ("key_lengths", self.seqlen_k)):
            lengths = getattr(self, name)
            if lengths is None:
                continue
            if len(lengths) != self.batch:
                raise AttentionError(f"{name} must name batch ({self.batch}) lengths, not {len(lengths)}")
            if min(lengths) < 0 or max(lengths) > longest:
                raise AttentionError(f"{name} must be from 0 to {longest}, not {list(lengths)}")
        if self.query_lengths is not None and self.key_lengths is None:
            raise AttentionError("query_lengths must come with key_lengths")

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
        dtype: Dtype = DEFAULT_DTYPE,
        causal: bool = False,
        causal_alignment: CausalAlignment = "bottom-right",
        softmax_scale: float | None = None,
        window: Window = (None, None),
        **features: Any,
    ) -> AttentionProblem:
        """A problem with defaults for omitted sizes: seqlen_k = seqlen_q, num_kv_heads = num_heads,
        head_dim_v = head_dim.

        window: (window_left, window_right). features: other fields, by name.
        Raises AttentionError when a rule is broken.

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
            window_left=window[0],
            window_right=window[1],
            **features,
        )

    @property
    def itemsize(self) -> int:
        """Bytes of one stored number."""
        return DTYPES[self.dtype].itemsize

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.head_dim) if self.softmax_scale is None else self.softmax_scale

    @property
    def features(self) -> frozenset[Feature]:
        """The features in use; `window` only if it hides more than the causal mask does."""
        on: list[Feature] = []  # if by if, as every call asks and most problems have none
        if self.window_left is not None or (self.window_right is not None and not self.causal):
            on.append("window")
        if self.softcap is not None:
            on.append("softcap")
        if self.alibi:
            on.append("alibi")
        if self.sinks:
            on.append("sinks")
        if self.mask is not None:
            on.append("mask")
        if self.query_lengths is not None:
            on.append("varlen")
        elif self.key_lengths is not None:
            on.append("key_lengths")
        if self.dropout > 0:
            on.append("dropout")
        if self.page_size is not None:
            on.append("block_table")
        return frozenset(on)

    @property
    def packed(self) -> bool:
        """Whether the sequences lie end to end along one axis, each with its own length."""
        return self.query_lengths is not None

    @property
    def window(self) -> Window:
        """(left, right): keys that a query sees on each side of its own key; None: no limit.

        Causal: right is 0.

        Numbers are at most seqlen_q + seqlen_k, which hides nothing more, so that kernels' integers do not
        overflow. `window_left` and `window_right` keep the caller's numbers.
        """
        most = self.seqlen_q + self.seqlen_k
        left = None if self.window_left is None else min(self.window_left, most)
        right = None if self.window_right is None else min(self.window_right, most)
        return left, 0 if self.causal else right

    @property
    def diagonal_offset(self) -> int:
        """Query i's own key is i + diagonal_offset, in a sequence of seqlen_q queries and seqlen_k keys."""
        return self.diagonal_of(self.seqlen_q, self.seqlen_k)

    def diagonal_of(self, seqlen_q: int, seqlen_k: int) -> int:
        """The diagonal offset of a sequence with these lengths."""
        return seqlen_k - seqlen_q if self.causal_alignment == "bottom-right" else 0

    @property
    def length_counts(self) -> Mapping[tuple[int, int], int]:
        """Number of sequences of each (seqlen_q, seqlen_k). Sums over the batch go over these, as a batch may
        hold a million sequences.

        >>> AttentionProblem.of(64, batch=10**6).length_counts
        {(64, 64): 1000000}
        """
        return _length_counts(self)

    def sequence(self, b: int) -> Sequence:
        """Sequence b of the batch, without a loop over the sequences before it."""
        seqlen_q = self.seqlen_q if self.query_lengths is None else self.query_lengths[b]
        seqlen_k = self.seqlen_k if self.key_lengths is None else self.key_lengths[b]
        if not self.packed:
            return Sequence(b, 0, 0, seqlen_q, seqlen_k)
        first_queries, first_keys = _first_rows(self)
        return Sequence(0, first_queries[b], first_keys[b], seqlen_q, seqlen_k)

    def sequences(self) -> list[Sequence]:
        """Place and lengths of every sequence of the batch."""
        keys = self.key_lengths or (self.seqlen_k,) * self.batch
        if self.query_lengths is None:
            return [Sequence(b, 0, 0, self.seqlen_q, length) for b, length in enumerate(keys)]
        first_queries = itertools.accumulate(self.query_lengths, initial=0)
        first_keys = itertools.accumulate(keys, initial=0)
        lengths = zip(first_queries, first_keys, self.query_lengths, keys, strict=False)  # one start more
        return [Sequence(0, *where) for where in lengths]

    @property
    def visible_pairs(self) -> int:
        """Exact number of visible (query, key) pairs of one head, over all sequences of the batch.

        Causal mask, window and lengths hide pairs. Pairs that a mask array hides still count, as the
        problem does not know the array.
        """
        return _visible_pairs(self)

    @property
    def masked(self) -> bool:
        """Whether causal mask or window hide any pair. In a decoding step the one query sees all keys."""
        pairs = sum(count * seqlen_q * seqlen_k for (seqlen_q, seqlen_k), count in self.length_counts.items())
        return self.visible_pairs < pairs

    def flops(self, direction: Direction) -> int:
        """Floating-point operations of the matrix products; a multiply-add counts two, softmax none.

        Forward: q k^T and p v. Backward: q k^T again, do v^T, and dv, dk, dq. With head_dim_v = head_dim
        the backward costs 2.5 times the forward (Dao et al. 2022, FlashAttention, algorithm 4).
        """
        pairs = self.num_heads * self.visible_pairs
        forward = 2 * pairs * (self.head_dim + self.head_dim_v)
        backward = 2 * pairs * (3 * self.head_dim + 2 * self.head_dim_v)
        return {"fwd": forward, "bwd": backward, "fwd_bwd": forward + backward}[direction]

    @property
    def query_rows(self) -> int:
        """Rows of q of one head, over the batch."""
        return sum(self.query_lengths) if self.query_lengths is not None else self.batch * self.seqlen_q

    @property
    def key_rows(self) -> int:
        """Rows of k of one head, over the batch."""
        if self.page_size is not None:  # whole pages
            pages = sum(count * -(-keys // self.page_size) for (_, keys), count in self.length_counts.items())
            return pages * self.page_size
        if self.packed and self.key_lengths is not None:
            return sum(self.key_lengths)
        return self.batch * self.seqlen_k

    @property
    def q_shape(self) -> tuple[int, int, int, int]:
        """(batch, num_heads, seqlen_q, head_dim), or (1, num_heads, all queries, head_dim) when packed."""
        if self.packed:
            return 1, self.num_heads, self.query_rows, self.head_dim
        return self.batch, self.num_heads, self.seqlen_q, self.head_dim

    @property
    def k_shape(self) -> tuple[int, int, int, int]:
        """(batch, num_kv_heads, seqlen_k, head_dim), (1, num_kv_heads, all keys, head_dim) when packed, or
        (pages, num_kv_heads, page_size, head_dim) with a block table.
        """
        if self.page_size is not None:
            return self.key_rows // self.page_size, self.num_kv_heads, self.page_size, self.head_dim
        if self.packed:
            return 1, self.num_kv_heads, self.key_rows, self.head_dim
        return self.batch, self.num_kv_heads, self.seqlen_k, self.head_dim

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """How many numbers q, k, v and o hold."""
        queries, keys = self.query_rows * self.num_heads, self.key_rows * self.num_kv_heads
        return (
            queries * self.head_dim,
            keys * self.head_dim,
            keys * self.head_dim_v,
            queries * self.head_dim_v,
        )

    @property
    def mask_shape(self) -> tuple[int, int, int, int]:
        """(batch, num_heads, seqlen_q, seqlen_k), with 1 for each broadcast axis. dmask has this shape."""
        sizes = {"b": self.batch, "h": self.num_heads, "q": self.seqlen_q, "k": self.seqlen_k}
        b, h, q, k = (size if axis in self.mask_axes else 1 for axis, size in sizes.items())
        return b, h, q, k

    @property
    def _q_bytes(self) -> int:
        return self.numbers[0] * self.itemsize

    @property
    def kv_bytes(self) -> int:
        """Bytes of k and v, which a decoding step reads."""
        _, k, v, _ = self.numbers
        return (k + v) * self.itemsize

    @property
    def _o_bytes(self) -> int:
        return self.numbers[3] * self.itemsize

    @property
    def _lse_bytes(self) -> int:
        return self.query_rows * self.num_heads * accumulator_of(self.dtype).itemsize

    def input_bytes(self, direction: Direction) -> int:
        """Bytes of q, k and v, plus do, o and lse for "bwd". "fwd_bwd" adds only do: it makes o and lse."""
        forward = self._q_bytes + self.kv_bytes
        if direction == "fwd":
            return forward
        extra = self._o_bytes if direction == "fwd_bwd" else 2 * self._o_bytes + self._lse_bytes
        return forward + extra

    def output_bytes(self, direction: Direction) -> int:
        """Bytes of o and lse ("fwd"), of dq, dk and dv ("bwd"), or of all five ("fwd_bwd")."""
        forward = self._o_bytes + self._lse_bytes
        backward = self._q_bytes + self.kv_bytes
        return {"fwd": forward, "bwd": backward, "fwd_bwd": forward + backward}[direction]

    def make_inputs(self, seed: int = 0) -> Inputs:
        """Standard normal q, k, v and do. One seed gives the same numbers on every machine."""
        return Inputs(*self.each_input(seed))

    def each_input(self, seed: int = 0) -> Iterator[NDArray[np.floating]]:
        """The arrays of `make_inputs` one by one, for callers that need not hold all of them."""
        import numpy as np

        rng = np.random.default_rng(seed)
        make = DTYPES[self.dtype].make
        for shape in (
            self.q_shape,
            self.k_shape,
            (*self.k_shape[:3], self.head_dim_v),
            (*self.q_shape[:3], self.head_dim_v),
        ):
            yield make(rng.standard_normal(shape))


@functools.lru_cache(maxsize=64)
def _length_counts(problem: AttentionProblem) -> Mapping[tuple[int, int], int]:
    if problem.key_lengths is None:
        return {(problem.seqlen_q, problem.seqlen_k): problem.batch}
    if problem.query_lengths is None:
        return {(problem.seqlen_q, length): count for length, count in Counter(problem.key_lengths).items()}
    return dict(Counter(zip(problem.query_lengths, problem.key_lengths, strict=True)))


@functools.lru_cache(maxsize=8)
def _first_rows(problem: AttentionProblem) -> tuple[list[int], list[int]]:
    """The first query row and the first key row of each packed sequence, and the end of the last."""
    assert problem.query_lengths is not None
    assert problem.key_lengths is not None
    lengths = problem.query_lengths, problem.key_lengths
    queries, keys = (list(itertools.accumulate(each, initial=0)) for each in lengths)
    return queries, keys


@functools.lru_cache(maxsize=1024)  # one call asks several times, and calls repeat problems
def _visible_pairs(problem: AttentionProblem) -> int:
    left, right = problem.window
    total = 0
    for (seqlen_q, seqlen_k), count in problem.length_counts.items():
        diagonal = problem.diagonal_of(seqlen_q, seqlen_k)
        pairs = seqlen_q * seqlen_k
        if right is not None:
            pairs = _sum_of_clipped(seqlen_q, diagonal + right + 1, seqlen_k)
        if left is not None:
            pairs -= _sum_of_clipped(seqlen_q, diagonal - left, seqlen_k)
        total += count * pairs
    return total


def _sum_of_clipped(count: int, start: int, most: int) -> int:
    """Sum over i < count of min(max(i + start, 0), most): zeros, then a ramp, then full rows.

    >>> _sum_of_clipped(5, -1, 2)  # 0 + 0 + 1 + 2 + 2
    5
    """
    first = min(count, max(0, -start))
    full = min(count, max(first, most - start))
    ramp = full - first
    return ramp * (2 * (first + start) + ramp - 1) // 2 + (count - full) * most
