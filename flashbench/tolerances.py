"""How far a right answer may be from the float64 oracle: the only home of numeric tolerances.

Where rounding comes from, with u the unit roundoff (2^-53 in float64, 2^-24 in float32). A sum of n
products errs by about sqrt(n) u times the size of its partial sums (Higham and Mary 2019, "A new
approach to probabilistic rounding error analysis"; n u is the worst case, which needs every rounding to
go the same way).

1. A logit s = scale q.k errs by about sqrt(head_dim) u |s|, plus u |s| for the multiplication by the
   scale or by log2(e). An error ds in a logit is a relative error ds in its p, and an absolute one in
   lse. Standard normal input has |s| up to 7 and head_dim at most 256: 16 u * 7 = 112 u for the
   largest logit, less for the others; an average over many keys does not add to it.
2. o is a weighted mean of values of size v: error 2 ds v at the very worst. Hence 256 u for o and lse.
3. dk and dv add up one term for each query that sees the key: heads * seqlen_q of them, heads being the
   query heads that share it. A query spreads a weight of 1 over the keys it sees, so that the first key
   of causal attention, which query i gives 1 / (i + 1) on average, has sums of size 4 sqrt(heads) or so;
   where all queries look at the same few keys, sqrt(heads seqlen_q) / keys. The error of p (256 u by
   point 2) is one of the whole sum where queries are alike: 1024 u sqrt(heads), or more by
   sqrt(seqlen_q) / (4 keys). Adding up errs by sqrt(heads seqlen_q) u times the size, at least
   8 u heads sqrt(seqlen_q), or more by sqrt(seqlen_q) / keys. The larger of the two counts; dq is a sum
   over keys, of weights that add up to 1, and stays at 1024 u.
4. In float64 the oracle rounds as much as the engine does, in an order of its own. The promise there is
   the round 1e-12, nine times 1024 u; the source document of the project claims 1e-10.
5. ALiBi and additive masks move logits away from 0 without adding products: the few roundings on the way
   (slope times distance, the addition, log2(e), the row's maximum) err by about 8 u |s|. A mean with
   weights p has of it at most 8 u sum(p |s|) <= 8 u (|lse| + log(keys)), as s = lse + log(p). Twice that,
   by point 2, is 256 u again where |lse| is 16, which standard normal logits do not reach with a million
   keys; from there on tolerances grow with the largest |lse|.
6. Softcap has a slope of at most 1, so that it passes on no more error than it is given, and adds that of
   tanh, a few u |s| where tanh is good to a few u of its own value, small ones included: that is asked
   for. 1 - tanh^2 is a factor of ds and errs by u. A sink only takes weight away from keys.
7. Dropout multiplies what it keeps by 1 / (1 - dropout), and so o and every gradient where little is kept.
8. dsinks and dmask are sums of p (dp - delta), of size sqrt(head_dim_v), which no softmax_scale makes smaller
   again as in dq and dk. The weights of all queries of a sequence add up as in point 3: to a size of 1 or so,
   or sqrt(seqlen_q) / keys where each sees as few; those of one query to 1; and sequences and heads, where
   the sum is over them, as the root of the sum of their squares. The error of p is 1024 u of that size, as in
   dq; adding up errs by at least 8 u sqrt(terms) times the size.
9. Other inputs than standard normal: errors of logits grow with the logits (point 1), o with v, dv with
   do, dq and dk with do v and with what they are multiplied by, k and q. Below the smallest normal
   number a product may be lost altogether, which costs that number times the same factor.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from flashbench.dtypes import DTYPES, Dtype
from flashbench.problem import AttentionProblem, Direction

# What the source document of this project claims for its float64 results.
DOCUMENTED_TOLERANCE = 1e-10

UNIT_ROUNDOFF = {dtype: entry.unit_roundoff for dtype, entry in DTYPES.items()}
SMALLEST_NORMAL = {dtype: entry.smallest_normal for dtype, entry in DTYPES.items()}

_FIXED = 1e-12  # point 4


def _base(roundings: int) -> dict[Dtype, float]:
    """The error of this many roundings, by dtype; the fixed number for dtypes of that class."""
    return {
        dtype: _FIXED if entry.tolerance == "fixed" else roundings * entry.unit_roundoff
        for dtype, entry in DTYPES.items()
    }


_FORWARD = _base(256)  # points 1, 2 and 4
_GRADIENT = _base(1024)  # points 3 and 4
_LARGEST_LSE = 16.0  # point 5

Output = Literal["o", "lse", "dq", "dk", "dv", "dsinks", "dmask"]


class Sizes(NamedTuple):
    """How many times standard normal the inputs are, and softmax_scale * sqrt(head_dim).

    keys: how many keys a query's weight is spread over, where they are fewer than it sees. With
    exact_logits, logits are powers of two, and only lse rounds.
    """

    q: float = 1.0
    k: float = 1.0
    v: float = 1.0
    do: float = 1.0
    scale: float = 1.0
    keys: int | None = None
    exact_logits: bool = False


STANDARD_NORMAL = Sizes()


def tolerance_for(
    dtype: Dtype,
    what: Output | Direction,
    *,
    heads_per_key: int = 1,
    seqlen_q: int = 1,
    seqlen_k: int | None = None,
    sizes: Sizes = STANDARD_NORMAL,
) -> float:
    """Largest absolute error that rounding explains, of one output or of a whole direction, without features.

    heads_per_key is num_heads / num_kv_heads; seqlen_k None: as many as queries. A direction means
    standard normal input: "fwd" is o's, "bwd" and "fwd_bwd" are the gradients', which hold for all three.

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
) -> float:
    """The same for the sizes and features of a problem.

    largest_lse: the largest finite |lse| of the oracle, which counts where ALiBi or an additive mask makes
    logits large.

    >>> problem_tolerance(AttentionProblem.of(512, dropout=0.5), "o")
    2e-12
    """
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


def _growth(what: Output | Direction, sizes: Sizes) -> float:
    """How much larger than those of standard normal input the logits are, and so their errors."""
    logits = abs(sizes.scale) * sizes.q * sizes.k
    return 1.0 if sizes.exact_logits and what != "lse" else max(1.0, logits)


def _of_sums_of_ds(problem: AttentionProblem, what: Output, sizes: Sizes) -> float:
    """Point 8."""
    kept = "hk" if what == "dsinks" else problem.mask_axes  # the axes that are not added up along
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
