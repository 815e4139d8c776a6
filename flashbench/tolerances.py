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
5. Other inputs than standard normal: errors of logits grow with the logits (point 1), o with v, dv with
   do, dq and dk with do v and with what they are multiplied by, k and q. Below the smallest normal
   number a product may be lost altogether, which costs that number times the same factor.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

# What the source document of this project claims for its float64 results.
DOCUMENTED_TOLERANCE = 1e-10

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}
SMALLEST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126}

_FORWARD = {"float64": 1e-12, "float32": 256 * UNIT_ROUNDOFF["float32"]}  # points 1, 2 and 4
_GRADIENT = {"float64": 1e-12, "float32": 1024 * UNIT_ROUNDOFF["float32"]}  # points 3 and 4

Output = Literal["o", "lse", "dq", "dk", "dv"]


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
    dtype: str,
    what: Output | Literal["fwd", "bwd", "fwd_bwd"],
    *,
    heads_per_key: int = 1,
    seqlen_q: int = 1,
    seqlen_k: int | None = None,
    sizes: Sizes = STANDARD_NORMAL,
) -> float:
    """Largest absolute error that rounding explains, of one output or of a whole direction.

    heads_per_key is num_heads / num_kv_heads; seqlen_k None: as many as queries. A direction means
    standard normal input: "fwd" is o's, "bwd" and "fwd_bwd" are the gradients', which hold for all three.

    >>> tolerance_for("float64", "fwd"), tolerance_for("float64", "bwd", seqlen_q=8192)
    (1e-12, 1e-12)
    """
    logits = abs(sizes.scale) * sizes.q * sizes.k
    growth = 1.0 if sizes.exact_logits and what != "lse" else max(1.0, logits)
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
