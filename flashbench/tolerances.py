"""Largest error of a correct answer against the float64 oracle. Every numeric tolerance is derived here.

u is the unit roundoff: 2^-53 in float64, 2^-24 in float32. A sum of n products has an error of about
sqrt(n) u times the size of its partial sums (Higham and Mary 2019, "A new approach to probabilistic rounding
error analysis"). The worst case is n u, and needs every rounding to go the same way.

1. Logits. s = scale q.k has an error of about sqrt(head_dim) u |s|, plus u |s| for the multiplication by
   the scale or by log2(e). An error ds of a logit is a relative error ds of its p, and an absolute error ds
   of lse. Standard normal input gives |s| <= 7, and head_dim is at most 256. So the largest logit has an
   error of 16 u * 7 = 112 u, the others less. An average over many keys does not add to it.
2. o and lse. o is a weighted mean of values of size v. Its error is at most 2 ds v. Hence 256 u for both.
3. dk and dv. Each is a sum with one term per query that sees the key: heads * seqlen_q terms, where heads
   counts the query heads that share the key. Each query spreads a weight of 1 over the keys that it sees.
   Size of the sum: the first key of causal attention gets 1 / (i + 1) from query i on average, so its sums
   have a size of about 4 sqrt(heads). If all queries see the same few keys, the size is
   sqrt(heads seqlen_q) / keys.
   Error from p: 256 u by point 2. If queries are alike, it is an error of the whole sum: 1024 u sqrt(heads),
   times sqrt(seqlen_q) / (4 keys) if that is more than 1.
   Error from adding: sqrt(heads seqlen_q) u times the size, at least 8 u heads sqrt(seqlen_q), times
   sqrt(seqlen_q) / keys if that is more than 1. The larger of the two errors counts.
   dq is a sum over keys with weights that add up to 1, so it stays at 1024 u.
4. float64. The oracle rounds as much as the engine does, in another order. The tolerance is a round number,
   1e-12, nine times 1024 u. The source document of the project claims 1e-10.
5. ALiBi and additive masks move logits away from 0 without adding products. Their few roundings (slope times
   distance, the addition, log2(e), the row's maximum) have an error of about 8 u |s|. A mean with weights p
   gets at most 8 u sum(p |s|) <= 8 u (|lse| + log(keys)) of it, as s = lse + log(p). Twice that (point 2)
   is 256 u again at |lse| = 16. Standard normal logits do not reach 16 even with a million keys. Above 16,
   tolerances grow with the largest |lse|.
6. Softcap has a slope of at most 1, so it does not increase an error. It adds the error of tanh: a few u |s|,
   provided that tanh is accurate to a few u of its own value, small values included. Engines must meet that.
   The factor 1 - tanh^2 of ds has an error of u. A sink only takes weight away from keys.
7. Dropout multiplies what it keeps by 1 / (1 - dropout). If it keeps little, o and every gradient grow by
   that factor.
8. dsinks and dmask are sums of p (dp - delta), of size sqrt(head_dim_v). No softmax_scale makes them smaller
   again, as it does dq and dk. The weights of all queries of one sequence add up as in point 3: to about 1,
   or to sqrt(seqlen_q) / keys if each query sees so few keys. The weights of one query add up to 1. A sum
   over sequences and heads has the root of the sum of their squares as its size. The error of p is 1024 u
   of that size, as in dq. Adding has an error of at least 8 u sqrt(terms) times the size.
9. Other inputs than standard normal. Errors of logits grow with the logits (point 1), o with v, dv with do,
   dq with do v k, and dk with do v q. A product below the smallest normal number may become 0, an error of
   that number times the same factor.
10. float16 and bfloat16, as flash-attention's tests have it. The naive computation rounds scores, p and each
   gradient to the dtype (`reference`, rounded_to). o may have twice its largest error, gradients three times,
   and 1e-5 more, or less where point 9 makes the output small. In small problems the naive error may be small
   by luck. These errors are allowed in any case: half of the rounding of the largest result; a sixteenth of
   the tolerance of float32, in which sums are computed, by points 1 to 9, for about one rounding of a logit;
   numbers below float32's smallest normal number, which AVX512-BF16 and AMX take for 0, times the other
   factors of a product; and what the backward inherits from o. It computes
   delta = sum(do o) from the rounded o, as flash-attention does, with an error of u sqrt(head_dim_v) |o| |do|
   at most. p and so ds have that error, dq = scale ds k has scale k times it, and dk scale q times. Errors of
   dk add up over queries that share few keys, as in point 3. So do those of ds where a unit takes it in 16
   bits.
   lse is never rounded to 16 bits. Products of two 16-bit numbers are exact in float32, and their sum is a
   float32 sum: lse has the tolerance of float32.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import msgspec

from flashbench.dtypes import DTYPES, Dtype, accumulator_of, is_half
from flashbench.problem import AttentionProblem, Direction

# The source document of this project claims this for its float64 results.
DOCUMENTED_TOLERANCE = 1e-10

UNIT_ROUNDOFF = {dtype: entry.unit_roundoff for dtype, entry in DTYPES.items()}
SMALLEST_NORMAL = {dtype: entry.smallest_normal for dtype, entry in DTYPES.items()}

_FIXED = 1e-12  # point 4


def _base(roundings: int) -> dict[Dtype, float]:
    """The error of this many roundings, by dtype; the fixed number for dtypes of that class."""
    return {
        dtype: _FIXED if entry.tolerance == "fixed" else roundings * entry.unit_roundoff
        for dtype, entry in DTYPES.items()
        if entry.tolerance != "halves"
    }


_FORWARD = _base(256)  # points 1, 2 and 4
_GRADIENT = _base(1024)  # points 3 and 4
_LARGEST_LSE = 16.0  # point 5
# Point 10: naive errors, and what is added to them.
_NAIVE_ERRORS_OF_O, _NAIVE_ERRORS_OF_GRADIENTS = 2.0, 3.0
ADDED_TO_NAIVE = 1e-5
_SHARE_OF_SUMS = 1 / 16

Output = Literal["o", "lse", "dq", "dk", "dv", "dsinks", "dmask"]


class Sizes(NamedTuple):
    """Sizes of the inputs, where 1 is standard normal.

    scale: softmax_scale * sqrt(head_dim).
    keys: the number of keys that share a query's weight, if fewer than the query sees.
    exact_logits: every logit is a power of two, so that only lse rounds.
    """

    q: float = 1.0
    k: float = 1.0
    v: float = 1.0
    do: float = 1.0
    scale: float = 1.0
    keys: int | None = None
    exact_logits: bool = False


STANDARD_NORMAL = Sizes()


class Naive(NamedTuple):
    """One output of the naive computation in a 16-bit dtype, beside the oracle's (point 10).

    error: largest absolute difference. largest: largest finite absolute value of the oracle's.
    """

    error: float
    largest: float


def tolerance_for(
    dtype: Dtype,
    what: Output | Direction,
    *,
    heads_per_key: int = 1,
    seqlen_q: int = 1,
    seqlen_k: int | None = None,
    sizes: Sizes = STANDARD_NORMAL,
) -> float:
    """Largest absolute error that rounding explains, of one output or of a direction, without features.

    heads_per_key: num_heads / num_kv_heads. seqlen_k: None means seqlen_q.
    A direction assumes standard normal input. "fwd" gives the tolerance of o. "bwd" and "fwd_bwd" give one
    that dq, dk and dv all keep. Not for float16 and bfloat16, whose tolerance follows from a naive error.

    >>> tolerance_for("float64", "fwd"), tolerance_for("float64", "bwd", seqlen_q=8192)
    (1e-12, 1e-12)
    """
    growth = _growth(what, sizes)
    if what in ("fwd", "o", "lse"):
        size = 1.0 if what == "lse" else sizes.v
        return _FORWARD[dtype] * growth * size + SMALLEST_NORMAL[dtype]
    roundings = _GRADIENT[dtype]
    if what != "dq":  # point 3
        root = math.sqrt(seqlen_q)
        share = root / (sizes.keys or seqlen_k or seqlen_q)
        of_p = 1024 * math.sqrt(heads_per_key) * max(1.0, share / 4)
        of_sum = 8 * heads_per_key * root * max(1.0, share)
        roundings = max(roundings, UNIT_ROUNDOFF[dtype] * max(of_p, of_sum))
    if what == "dv":
        return roundings * growth * sizes.do + SMALLEST_NORMAL[dtype]
    factor = abs(sizes.scale) * {"dq": sizes.k, "dk": sizes.q}.get(what, 1.0)
    return factor * (roundings * growth * sizes.do * sizes.v + SMALLEST_NORMAL[dtype])


def problem_tolerance(
    problem: AttentionProblem,
    what: Output | Direction,
    *,
    sizes: Sizes = STANDARD_NORMAL,
    largest_lse: float = 0.0,
    naive: Naive | None = None,
) -> float:
    """`tolerance_for` with the sizes and features of a problem; also for dsinks and dmask.

    largest_lse: the largest finite |lse| of the oracle. It matters if ALiBi or an additive mask makes
    logits large. naive: for every output of float16 and bfloat16 except lse.

    >>> problem_tolerance(AttentionProblem.of(512, dropout=0.5), "o")
    2e-12
    """
    if is_half(problem.dtype):
        if what == "lse":
            return _in_sums(problem, what, sizes, largest_lse)
        if naive is None:
            raise ValueError(f"the tolerance of {what} in {problem.dtype} follows from a naive error")
        unit = naive_unit(problem, what, naive, sizes=sizes, largest_lse=largest_lse)
        return _naive_errors(what) * unit + ADDED_TO_NAIVE * min(1.0, _size(what, sizes))
    if what in ("dsinks", "dmask"):
        tolerance = _of_sums_of_ds(problem, what, sizes)
    else:
        tolerance = max(
            tolerance_for(
                problem.dtype,
                what,
                heads_per_key=problem.num_heads // problem.num_kv_heads,
                seqlen_q=max(1, seqlen_q),
                seqlen_k=max(1, seqlen_k),
                sizes=sizes,
            )
            for seqlen_q, seqlen_k in problem.length_counts
        )
    if not sizes.exact_logits:  # point 5
        growth = _growth(what, sizes)
        tolerance *= max(growth, largest_lse / _LARGEST_LSE) / growth
    return tolerance if what == "lse" else tolerance / (1.0 - problem.dropout)  # point 7


def naive_unit(
    problem: AttentionProblem,
    what: Output | Direction,
    naive: Naive,
    *,
    sizes: Sizes = STANDARD_NORMAL,
    largest_lse: float = 0.0,
) -> float:
    """The naive error of an output of a 16-bit dtype, or what counts as one if that is more (point 10)."""
    entry = DTYPES[problem.dtype]
    rounding, smallest = entry.unit_roundoff, entry.smallest_normal
    of_result = rounding * max(min(naive.largest, entry.largest), smallest) / 2
    of_sums = _SHARE_OF_SUMS * _in_sums(problem, what, sizes, largest_lse) / _naive_errors(what)
    flushed = accumulator_of(problem.dtype).smallest_normal * max(1.0, *sizes[:4], abs(sizes.scale))
    of_delta = 0.0
    if what in ("dq", "dk"):
        wide = math.sqrt(problem.head_dim_v / problem.head_dim)
        factor = abs(sizes.scale) * (sizes.k if what == "dq" else sizes.q)
        of_delta = factor * wide * rounding * max(sizes.v, smallest) * sizes.do
    if what == "dk":
        of_delta *= _queries_of_a_key(problem, sizes)
    return max(naive.error, of_result, of_sums, flushed, of_delta)


def _queries_of_a_key(problem: AttentionProblem, sizes: Sizes) -> float:
    """The size of a sum over the queries that share a key, as in point 3; at least 1."""
    heads = problem.num_heads // problem.num_kv_heads
    shares = (
        math.sqrt(heads * seqlen_q) / max(1, sizes.keys or seqlen_k)
        for seqlen_q, seqlen_k in problem.length_counts
    )
    return max(1.0, *shares)


def _naive_errors(what: Output | Direction) -> float:
    return _NAIVE_ERRORS_OF_O if what == "o" else _NAIVE_ERRORS_OF_GRADIENTS


def _in_sums(problem: AttentionProblem, what: Output | Direction, sizes: Sizes, largest_lse: float) -> float:
    """The tolerance of the same problem in the dtype's accumulator."""
    wide = msgspec.structs.replace(problem, dtype=DTYPES[problem.dtype].accumulator)
    return problem_tolerance(wide, what, sizes=sizes, largest_lse=largest_lse)


def _size(what: Output | Direction, sizes: Sizes) -> float:
    """The size of an output by those of the inputs (point 9)."""
    scale = abs(sizes.scale) * sizes.do * sizes.v
    sizes_of = {"o": sizes.v, "dq": scale * sizes.k, "dk": scale * sizes.q, "dv": sizes.do}
    return sizes_of.get(what, sizes.do * sizes.v)


def _growth(what: Output | Direction, sizes: Sizes) -> float:
    """The size of logits, and so of their errors, relative to standard normal input; at least 1."""
    logits = abs(sizes.scale) * sizes.q * sizes.k
    return 1.0 if sizes.exact_logits and what != "lse" else max(1.0, logits)


def _of_sums_of_ds(problem: AttentionProblem, what: Output, sizes: Sizes) -> float:
    """The tolerance of dsinks or dmask (point 8)."""
    kept = "hk" if what == "dsinks" else problem.mask_axes  # axes that the sum does not reduce
    left, right = problem.window
    widest = problem.seqlen_k if left is None or right is None else left + right + 1
    squares, terms = [], []
    for (seqlen_q, seqlen_k), count in problem.length_counts.items():
        keys = max(1, min(widest, seqlen_k, sizes.keys or widest))
        alike = 1 if "b" in kept else count
        squares.append(alike * (1.0 if "q" in kept else max(1.0, seqlen_q / keys**2)))
        terms.append(alike * (1 if "q" in kept else seqlen_q) * (1 if "k" in kept else seqlen_k))
    over_sequences = max if "b" in kept else sum
    heads = 1 if "h" in kept else problem.num_heads
    size = math.sqrt(heads * over_sequences(squares))
    of_sum = 8 * math.sqrt(heads * over_sequences(terms))
    dtype = problem.dtype
    roundings = max(_GRADIENT[dtype], UNIT_ROUNDOFF[dtype] * size * max(1024.0, of_sum))
    logits = _growth(what, sizes)
    return math.sqrt(problem.head_dim_v) * (roundings * logits * sizes.do * sizes.v + SMALLEST_NORMAL[dtype])
