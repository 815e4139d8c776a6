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
3. dk and dv add up one term for each query that sees the key: rows_per_key = seqlen_q * (query heads
   that share it) terms. Causal attention has the worst of it: p is 1 / (i + 1) in row i on average,
   so the first key's sum stays below about 4 sqrt(heads), and errs by sqrt(rows_per_key) u of that: 4 u
   heads sqrt(seqlen_q). Hence 1024 u for gradients, and more in proportion once heads * sqrt(seqlen_q)
   is above 256 (one head of 65,536 queries, or 8 heads of 1,024).
4. In float64 the oracle rounds as much as the engine does, in an order of its own. The promise there is
   the round 1e-12, nine times point 3; the source document of the project claims 1e-10.
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
_HEADS_ROOT_ROWS = 256.0  # up to which heads * sqrt(seqlen_q) the gradients' figure holds: point 3

Output = Literal["o", "lse", "dq", "dk", "dv"]


class Sizes(NamedTuple):
    """How many times standard normal the inputs are, and softmax_scale * sqrt(head_dim).

    crowd: how many times larger sums over queries are where many queries look at one key: up to a
    quarter of the root of their number. With exact_logits, logits are powers of two, and only lse rounds.
    """

    q: float = 1.0
    k: float = 1.0
    v: float = 1.0
    do: float = 1.0
    scale: float = 1.0
    crowd: float = 1.0
    exact_logits: bool = False


STANDARD_NORMAL = Sizes()


def tolerance_for(
    dtype: str,
    what: Output | Literal["fwd", "bwd", "fwd_bwd"],
    *,
    heads_per_key: int = 1,
    seqlen_q: int = 1,
    sizes: Sizes = STANDARD_NORMAL,
) -> float:
    """Largest absolute error that rounding explains, of one output or of a whole direction.

    heads_per_key is num_heads / num_kv_heads. A direction means standard normal input: "fwd" is o's,
    "bwd" and "fwd_bwd" are the gradients', which hold for all three.

    >>> tolerance_for("float64", "fwd"), tolerance_for("float64", "bwd", seqlen_q=8192)
    (1e-12, 1e-12)
    """
    logits = abs(sizes.scale) * sizes.q * sizes.k
    growth = 1.0 if sizes.exact_logits and what != "lse" else max(1.0, logits)
    if what in ("fwd", "o", "lse"):
        size = 1.0 if what == "lse" else sizes.v
        return _FORWARD[dtype] * growth * size + SMALLEST_NORMAL[dtype]
    growth *= max(1.0, heads_per_key * math.sqrt(seqlen_q) / _HEADS_ROOT_ROWS)
    if what in ("dk", "dv"):
        growth *= sizes.crowd
    if what == "dv":
        return _GRADIENT[dtype] * growth * sizes.do + SMALLEST_NORMAL[dtype]
    factor = abs(sizes.scale) * {"dq": sizes.k, "dk": sizes.q}.get(what, 1.0)
    return factor * (_GRADIENT[dtype] * growth * sizes.do * sizes.v + SMALLEST_NORMAL[dtype])
