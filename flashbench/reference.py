"""The float64 oracle: textbook attention and its gradients in NumPy, one block of query rows at a time.

With `rounded_to` the same formulas are the naive computation in a narrower dtype, as eager code has it: each
step's array is rounded to it. Errors of float16 and bfloat16 are measured against the errors of that.

It shares no code with any engine. It follows the formulas of Dao et al. 2022, "FlashAttention":
p = softmax(softmax_scale * q k^T), o = p v. Each optional feature is in one place. It is slow and simple, and
never holds N x N scores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from flashbench.block_mask import BlockMask
from flashbench.dtypes import DTYPES, Dtype
from flashbench.errors import AttentionError
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.philox import dropout_kept
from flashbench.problem import AttentionProblem

Array = NDArray[np.floating]
Array64 = NDArray[np.float64]
Visible = NDArray[np.bool_]
Index = tuple[slice, ...]
Rounding = Callable[[Array64], Array64]

# 256 rows of 8192 scores take 16 MiB in float64: little next to the arrays of a long problem.
ROWS_PER_BLOCK = 256


class _Gradients(NamedTuple):
    dq: Array64
    dk: Array64
    dv: Array64


class ReferenceGradients(_Gradients):
    """Gradients of sum(do * o) in float64. It unpacks into dq, dk and dv; dsinks and dmask are attributes.

    dsinks: (num_heads,); None without sinks. dmask: problem.mask_shape; None without a float mask.
    """

    dsinks: Array64 | None = None
    dmask: Array64 | None = None

    def __new__(
        cls,
        dq: Array64,
        dk: Array64,
        dv: Array64,
        dsinks: Array64 | None = None,
        dmask: Array64 | None = None,
    ) -> ReferenceGradients:
        made = super().__new__(cls, dq, dk, dv)
        made.dsinks, made.dmask = dsinks, dmask
        return made


def attention_reference(
    problem: AttentionProblem,
    q: Array,
    k: Array,
    v: Array,
    extras: Extras = NO_EXTRAS,
    *,
    origin: tuple[int, int] = (0, 0),
    rounded_to: Dtype | None = None,
) -> tuple[Array64, Array64]:
    """o: (batch, num_heads, seqlen_q, head_dim_v) and lse: (batch, num_heads, seqlen_q), both float64.

    q, k and v: of problem.q_shape and k_shape (v with head_dim_v), of any float dtype.

    A row without a visible key gives o = 0 and lse = -inf, or its sink. A hidden key or value never reaches a
    row, even if it is NaN. A key with a logit of -inf is visible with p = 0. If all logits are -inf, o = 0
    and lse = -inf, but 0 times a NaN value is NaN. Dropout also multiplies by 0, so a NaN p stays NaN.

    origin: (sequence, head) in `extras` and in dropout's counters of this problem's first sequence and head,
    if the problem is a part of another (see `head_group`).
    rounded_to: round scores, p, o and what lies between them to this dtype's precision. Its exponent has no
    limits here: a naive computation that overflows would say nothing of errors. None: round nothing.
    """
    o = np.zeros((*problem.q_shape[:3], problem.head_dim_v))
    lse = np.zeros(o.shape[:3])
    with np.errstate(all="ignore"):  # NaN and infinity are valid results here
        for head in _heads(problem, extras, origin, rounded_to):
            q_head, k_head, v_head = head.queries_of(q), head.keys_of(k), head.keys_of(v)
            o[head.queries], lse[head.queries] = _forward_head(head, q_head, k_head, v_head)
    return o, lse


def attention_backward_reference(
    problem: AttentionProblem,
    do: Array,
    q: Array,
    k: Array,
    v: Array,
    extras: Extras = NO_EXTRAS,
    *,
    origin: tuple[int, int] = (0, 0),
    rounded_to: Dtype | None = None,
) -> ReferenceGradients:
    """Gradients of sum(do * o). dk and dv are sums over the query heads that share a key head.

    Arguments as in `attention_reference`; do has o's shape. Rows without a visible key have zero gradients.
    Raises AttentionError for keys in pages, which are only for reading.
    """
    if problem.page_size is not None:
        raise AttentionError("keys in pages have no gradients")
    dq, dk, dv = (np.zeros(x.shape) for x in (q, k, v))
    dsinks = np.zeros(problem.num_heads) if problem.sinks else None
    dmask = np.zeros(problem.mask_shape) if problem.mask == "float" else None
    with np.errstate(all="ignore"):
        for head in _heads(problem, extras, origin, rounded_to):
            arrays = head.queries_of(do), head.queries_of(q), head.keys_of(k), head.keys_of(v)
            dq_head, dk_head, dv_head, dsink = _backward_head(head, *arrays, dmask)
            dq[head.queries] = dq_head
            dk[head.keys] += dk_head
            dv[head.keys] += dv_head
            if dsinks is not None:
                dsinks[head.h] += dsink
        rounded = _rounding(rounded_to)
        dk, dv = rounded(dk), rounded(dv)  # several query heads added to them
        dsinks, dmask = (None if x is None else rounded(x) for x in (dsinks, dmask))
    return ReferenceGradients(dq, dk, dv, dsinks, dmask)


class HeadGroup(NamedTuple):
    """A part of a problem as its own problem. Pass it to the oracle with the whole problem's extras."""

    problem: AttentionProblem
    queries: Index  # selects its part of q, do, o, lse and dq
    keys: Index  # selects its part of k, v, dk and dv; of k and v in pages it takes all pages
    origin: tuple[int, int]  # its first (sequence, head) in the whole problem


def head_group(problem: AttentionProblem, batch: int, kv_head: int) -> HeadGroup:
    """One key head of one sequence, with the query heads that share it.

    Groups are independent of each other, so a few groups can check a big problem.

    >>> part = head_group(AttentionProblem.of(8, num_heads=6, num_kv_heads=2), 0, 1)
    >>> part.problem.num_heads, part.problem.num_kv_heads, part.origin
    (3, 1, (0, 3))
    >>> part.queries[1], part.keys[1]
    (slice(3, 6, None), slice(1, 2, None))
    """
    group = problem.num_heads // problem.num_kv_heads
    sequence = problem.sequence(batch)
    part = msgspec.structs.replace(
        problem,
        batch=1,
        num_heads=group,
        num_kv_heads=1,
        key_lengths=None if problem.key_lengths is None else (sequence.seqlen_k,),
        query_lengths=None if problem.query_lengths is None else (sequence.seqlen_q,),
    )
    first = kv_head * group
    one = slice(sequence.batch_index, sequence.batch_index + 1)
    queries: Index = (one, slice(first, first + group))
    keys: Index = (one, slice(kv_head, kv_head + 1))
    if problem.packed:
        queries += (slice(sequence.first_query, sequence.first_query + sequence.seqlen_q),)
        keys += (slice(sequence.first_key, sequence.first_key + sequence.seqlen_k),)
    if problem.page_size is not None:
        keys = (slice(None), keys[1])
    return HeadGroup(part, queries, keys, (batch, first))


def gather_pages(x: Array, pages: NDArray[np.int64], seqlen_k: int) -> Array:
    """Gather k or v of one sequence, (num_kv_heads, seqlen_k, ...), from its pages in order.

    x: k or v, (pages, num_kv_heads, page_size, ...). pages: the sequence's row of the block table.

    >>> gather_pages(np.arange(6.0).reshape(3, 1, 2, 1), np.array([2, 0]), 3).ravel()
    array([4., 5., 0.])
    """
    page_size = x.shape[2]
    used = x[pages[: -(-seqlen_k // page_size)]].swapaxes(0, 1)
    return used.reshape(x.shape[1], -1, x.shape[3])[:, :seqlen_k]


def largest_error(actual: Array, expected: Array) -> float:
    """Largest absolute difference. Infinite if a NaN or infinity is missing, misplaced or has another sign.

    Raises ValueError if the shapes differ.

    >>> largest_error(np.array([1.0, -np.inf]), np.array([1.5, -np.inf]))
    0.5
    >>> largest_error(np.array([0.0]), np.array([np.nan]))
    inf
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} is not {expected.shape}")
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return float("inf")
    # A misplaced NaN or infinity in `actual` makes the maximum NaN or infinite: never within a tolerance.
    with np.errstate(invalid="ignore"):
        error = float(np.max(np.abs(actual[finite] - expected[finite]), initial=0.0))
    return float("inf") if np.isnan(error) else error


def largest_finite(x: Array) -> float:
    """Largest finite absolute value in x; `problem_tolerance` needs that of lse.

    >>> largest_finite(np.array([-3.0, 2.0, -np.inf, np.nan]))
    3.0
    """
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


def worst_place(actual: Array, expected: Array) -> tuple[int, ...]:
    """Index of the largest absolute difference. A misplaced NaN or infinity counts as the largest.

    >>> worst_place(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.5, np.nan]))
    (1,)
    """
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual - expected)
    difference = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    return tuple(int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))


class _Head(NamedTuple):
    """One query head of one sequence: its place in the arrays, and its features."""

    problem: AttentionProblem
    extras: Extras
    b: int  # sequence in this problem
    h: int  # head in this problem
    number: tuple[int, int]  # (sequence, head) in extras and in dropout's counters
    queries: tuple[int, int, slice]  # selects its part of q, do, o, lse and dq
    keys: tuple[int, int, slice]  # selects its part of k, v, dk and dv
    seqlen_q: int
    seqlen_k: int
    rounded: Rounding  # of each step of a naive computation; the oracle's does nothing

    def queries_of(self, x: Array) -> Array64:
        """Its part of q or do."""
        return self._numbers(x[self.queries])

    def keys_of(self, x: Array) -> Array64:
        """This head's part of k or v: (seqlen_k, ...)."""
        if self.problem.page_size is None:
            return self._numbers(x[self.keys])
        assert self.extras.block_table is not None
        kv = self.keys[1]
        pages = self.extras.block_table[self.number[0]]
        return self._numbers(gather_pages(x[:, kv : kv + 1], pages, self.seqlen_k)[0])

    def _numbers(self, stored: Array) -> Array64:
        return np.ascontiguousarray(DTYPES[self.problem.dtype].view(stored), dtype=np.float64)

    @property
    def sink(self) -> float:
        """The sink's logit, added to every row's logits; -inf (no weight) without sinks."""
        if not self.problem.sinks:
            return -np.inf
        assert self.extras.sinks is not None
        return float(self.extras.sinks[self.number[1]])

    def own_keys(self, rows: slice) -> NDArray[np.intp]:
        """The key on each query's diagonal, (rows, 1)."""
        diagonal = self.problem.diagonal_of(self.seqlen_q, self.seqlen_k)
        return np.arange(rows.start, rows.stop)[:, np.newaxis] + diagonal

    def visible(self, rows: slice) -> tuple[NDArray[np.intp], Visible]:
        """(keys from the first to the last that causal mask and window show these queries, visible pairs)."""
        own = self.own_keys(rows)
        left, right = self.problem.window
        first = np.zeros_like(own) if left is None else np.clip(own - left, 0, self.seqlen_k)
        end = (
            np.full_like(own, self.seqlen_k) if right is None else np.clip(own + right + 1, 0, self.seqlen_k)
        )
        keys = np.arange(first[0, 0], end[-1, 0])
        visible = (keys >= first) & (keys < end)
        if self.problem.mask == "float":
            visible &= ~np.isneginf(self.mask(rows, keys))
        elif self.problem.mask is not None:
            visible &= self.mask(rows, keys)
        return keys, visible

    def mask(self, rows: slice, keys: NDArray[np.intp]) -> NDArray[Any]:
        """The mask of these queries and keys: (rows, keys), bool or float."""
        mask, (b, h) = self.extras.mask, self.number
        assert mask is not None
        block = mask.rows(b, h, rows) if isinstance(mask, BlockMask) else mask[b, h, rows]
        return np.asarray(block[:, keys])

    def bias(self, rows: slice, keys: NDArray[np.intp]) -> Array64 | float:
        """The sum of ALiBi and float mask, which is added to the logits: (rows, keys), or 0."""
        bias: Array64 | float = 0.0
        if self.problem.alibi:
            assert self.extras.alibi_slopes is not None
            bias = bias - float(self.extras.alibi_slopes[self.number]) * np.abs(self.own_keys(rows) - keys)
        if self.problem.mask == "float":
            bias = bias + self.mask(rows, keys).astype(np.float64)
        return bias

    def kept(self, rows: slice, keys: NDArray[np.intp]) -> Visible | None:
        """The pairs that dropout keeps: (rows, keys); None: all."""
        if not self.problem.dropout:
            return None
        return dropout_kept(self.problem, *self.number, np.arange(rows.start, rows.stop), keys)


def _heads(
    problem: AttentionProblem, extras: Extras, origin: tuple[int, int], rounded_to: Dtype | None
) -> Iterator[_Head]:
    rounded = _rounding(rounded_to)
    group = problem.num_heads // problem.num_kv_heads
    for b, (index, first_query, first_key, seqlen_q, seqlen_k) in enumerate(problem.sequences()):
        for h in range(problem.num_heads):
            yield _Head(
                problem,
                extras,
                b,
                h,
                (origin[0] + b, origin[1] + h),
                (index, h, slice(first_query, first_query + seqlen_q)),
                (index, h // group, slice(first_key, first_key + seqlen_k)),
                seqlen_q,
                seqlen_k,
                rounded,
            )


def _rounding(dtype: Dtype | None) -> Rounding:
    if dtype is None:
        return lambda x: x
    return functools.partial(_to_precision, unit_roundoff=DTYPES[dtype].unit_roundoff)


def _to_precision(x: Array64, *, unit_roundoff: float) -> Array64:
    """x rounded to nearest in this precision: the high part of Veltkamp's splitting.

    >>> _to_precision(np.array([1.0, 1.01, -258.9]), unit_roundoff=2.0**-8)
    array([   1.       ,    1.0078125, -258.       ])
    """
    split = x * (unit_roundoff * 2.0**53 + 1.0)
    return np.where(np.isfinite(x), split - (split - x), x)


class _Block(NamedTuple):
    """Some query rows of a head, the keys that they may see, and the features of each (row, key) pair."""

    rows: slice
    keys: NDArray[np.intp]
    visible: Visible
    bias: Array64 | float
    kept: Visible | None


def _row_blocks(head: _Head, *arrays: Array64) -> Iterator[_Block]:
    """Blocks that cover every row with a visible key.

    If every value is finite, a weight of 0 hides a key in a product, and blocks are large. Otherwise
    0 * NaN would let a hidden NaN through. A block is then one row with only the keys that it sees, so that
    no weight needs to hide anything.
    """
    finite = all(np.isfinite(x).all() for x in arrays)
    size = ROWS_PER_BLOCK if finite else 1
    for start in range(0, head.seqlen_q, size):
        rows = slice(start, min(start + size, head.seqlen_q))
        keys, visible = head.visible(rows)
        if not finite:
            keys, visible = keys[visible[0]], visible[:, visible[0]]
        if len(keys):
            yield _Block(rows, keys, visible, head.bias(rows, keys), head.kept(rows, keys))


class _Softmax(NamedTuple):
    p: Array64  # (rows, keys), zero for hidden keys
    p_sink: Array64  # (rows,): the sink's probability; zero for rows that see no key
    lse: Array64  # (rows,): the logarithm of the denominator
    slope: Array64 | float  # softcap's derivative, d(logit) / d(scale q k^T)


def _softmax(head: _Head, block: _Block, q: Array64, k: Array64) -> _Softmax:
    """Softmax of one block. q and k: the block's rows and keys."""
    rounded = head.rounded
    s = rounded(head.problem.scale * rounded(q @ k.T))
    slope: Array64 | float = 1.0
    if head.problem.softcap is not None:
        s = rounded(np.tanh(rounded(s / head.problem.softcap)))
        slope = rounded(1.0 - s**2)
        s = rounded(s * head.problem.softcap)
    s = np.where(block.visible, rounded(s + block.bias), -np.inf)
    row_max = np.maximum(s.max(axis=1, keepdims=True), head.sink)
    # If all logits are -inf, shift by 0: -inf - -inf would be NaN, and their weight must be 0.
    shift = np.where(np.isneginf(row_max), 0.0, row_max)
    p, p_sink = np.exp(s - shift), np.exp(head.sink - shift)
    row_sum = p.sum(axis=1, keepdims=True) + p_sink
    lse = (shift + np.log(row_sum))[:, 0]
    row_sum[row_sum == 0.0] = 1.0
    sees = block.visible.any(axis=1)
    return _Softmax(
        p=rounded(np.where(block.visible, p / row_sum, 0.0)),
        p_sink=rounded(np.where(sees, (p_sink / row_sum)[:, 0], 0.0)),
        lse=np.where(sees, lse, head.sink),
        slope=slope,
    )


def _dropped(head: _Head, block: _Block, x: Array64) -> Array64:
    """Dropout of p in the forward, of dp in the backward. It multiplies by 0, so that NaN stays NaN."""
    if block.kept is None:
        return x
    return head.rounded(np.where(block.kept, x / (1.0 - head.problem.dropout), 0.0 * x))


def _forward_head(head: _Head, q: Array64, k: Array64, v: Array64) -> tuple[Array64, Array64]:
    """o: (seqlen_q, head_dim_v) and lse: (seqlen_q,) of one head."""
    o = np.zeros((len(q), v.shape[1]))
    lse = np.full(len(q), head.sink)
    for block in _row_blocks(head, q, k, v):
        softmax = _softmax(head, block, q[block.rows], k[block.keys])
        lse[block.rows] = softmax.lse
        o[block.rows] = head.rounded(_dropped(head, block, softmax.p) @ v[block.keys])
    return o, lse


def _backward_head(
    head: _Head, do: Array64, q: Array64, k: Array64, v: Array64, dmask: Array64 | None
) -> tuple[Array64, Array64, Array64, float]:
    """dq, dk, dv and dsink of one head. The gradient of its mask is added to dmask.

    o = p v: dv = p^T do and dp = do v^T.
    Softmax: ds = p * (dp - delta), with delta = sum(p * dp) = sum(o * do). The sink likewise, with dp = 0.
    s = scale q k^T: dq = scale ds k and dk = scale ds^T q.
    Dropout does to dp what it did to p.
    """
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    dsink, rounded = 0.0, head.rounded
    for block in _row_blocks(head, q, k, v, do):
        rows, keys = block.rows, block.keys
        p, p_sink, _, slope = _softmax(head, block, q[rows], k[keys])
        p_dropped = _dropped(head, block, p)
        dv[keys] += p_dropped.T @ do[rows]
        dp = rounded(np.where(block.visible, do[rows] @ v[keys].T, 0.0))
        delta = (p_dropped * dp).sum(axis=1, keepdims=True)
        dsink -= float(rounded(p_sink * delta[:, 0]).sum())
        ds = rounded(np.where(block.visible, p * (_dropped(head, block, dp) - delta), 0.0))
        if dmask is not None:
            _add_to_mask(head, dmask, block, ds)
        ds = rounded(np.where(block.visible, head.problem.scale * rounded(slope * ds), 0.0))
        dq[rows] = rounded(ds @ k[keys])
        dk[keys] += ds.T @ q[rows]
    return dq, rounded(dk), rounded(dv), dsink


def _add_to_mask(head: _Head, dmask: Array64, block: _Block, ds: Array64) -> None:
    """Add a block of ds to dmask, summed along the axes along which the mask is broadcast."""
    axes = head.problem.mask_axes
    target = dmask[head.b if "b" in axes else 0, head.h if "h" in axes else 0]
    rows, keys = np.arange(block.rows.start, block.rows.stop), block.keys
    if "q" not in axes:
        rows, ds = rows[:1] * 0, ds.sum(axis=0, keepdims=True)
    if "k" not in axes:
        keys, ds = keys[:1] * 0, ds.sum(axis=1, keepdims=True)
    target[np.ix_(rows, keys)] += ds
