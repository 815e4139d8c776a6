"""Whether two attentions choose the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flashbench.dtypes import Dtype

# How far a token may be ahead of the second for rounding to change the choice: a share of the largest logit.
NEARLY_EQUAL: Mapping[Dtype, float] = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05}


def disagreement(
    tokens: Sequence[int], others: Sequence[int], leads: Sequence[float], dtype: Dtype
) -> str | None:
    """A reason if an arm chose other tokens than the first arm, at a place where that one had a clear lead.

    others, leads: of the first arm. After a choice that rounding decided, the arms read different texts.

    >>> disagreement([5, 7], [5, 8], [0.3, 0.2], "float32")
    'chose token 7 where the first attention chose 8, by a lead of 20 %'
    >>> disagreement([5, 7], [5, 8], [0.3, 0.00001], "float32") is None
    True
    """
    for token, other, lead in zip(tokens, others, leads, strict=True):
        if token != other:
            if lead <= NEARLY_EQUAL[dtype]:
                return None
            lead_word = f"by a lead of {100 * lead:.0f} %"
            return f"chose token {token} where the first attention chose {other}, {lead_word}"
    return None
