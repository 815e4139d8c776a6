"""Every wrong argument of attention over packed sequences is named with the rule and the value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.oracle_engine import OracleEngine

from flashbench.errors import AttentionError
from flashbench.varlen import attention_varlen, attention_varlen_backward

T = np.zeros((6, 4, 8))
CU = [0, 2, 6]
BAD_PACKED = {
    "4-D": (
        {"q": np.zeros((2, 4, 6, 8))},
        "q must be 3-D (total, num_heads, head_dim), but has shape (2, 4, 6, 8)",
    ),
    "empty": ({"q": T[:0], "cu_seqlens_q": [0, 0]}, "q must not be empty, but has shape (0, 4, 8)"),
    "other head_dim": (
        {"k": T[..., :3]},
        "k must have q's head_dim, but has shape (6, 4, 3) where q has (6, 4",
    ),
    "other values": (
        {"v": T[:5]},
        "v must have k's total and num_kv_heads, but has shape (5, 4, 8) where k has",
    ),
    "heads": ({"k": T[:, :3], "v": T[:, :3]}, "num_heads (4) must be a multiple of num_kv_heads (3)"),
    "one bound": (
        {"cu_seqlens_q": [0]},
        "cu_seqlens_q must have shape (sequences + 1,), 2 at least, not (1,)",
    ),
    "bounds in 2-D": (
        {"cu_seqlens_k": [CU]},
        "cu_seqlens_k must have shape (sequences + 1,), 2 at least, not (1, 3",
    ),
    "bounds of halves": ({"cu_seqlens_k": [0.0, 6.0]}, "cu_seqlens_k must hold whole numbers, not float64"),
    "late start": (
        {"cu_seqlens_q": [1, 6]},
        "cu_seqlens_q must go from 0 to the 6 rows of q, not from 1 to 6",
    ),
    "early end": (
        {"cu_seqlens_k": [0, 5]},
        "cu_seqlens_k must go from 0 to the 6 rows of k, not from 0 to 5",
    ),
    "back and forth": (
        {"cu_seqlens_q": [0, 4, 2, 6]},
        "cu_seqlens_q must ascend, but goes from 4 to 2 (sequence 1)",
    ),
    "other sequences": (
        {"cu_seqlens_k": [0, 6]},
        "cu_seqlens_q and cu_seqlens_k must be of the same number of sequences, not 2 and 1",
    ),
    "mask": (
        {"mask": np.ones((6, 6), bool)},
        "mask of shape (6, 6) does not broadcast to (batch, num_heads, seqlen_q, seqlen_k) = (2, 4, 4, 4)",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD_PACKED.values(), ids=BAD_PACKED)
def test_a_wrong_argument_of_packed_sequences_is_named(changes: dict[str, Any], message: str) -> None:
    arguments = {"q": T, "k": T, "v": T, "cu_seqlens_q": CU, "cu_seqlens_k": CU, "engine": "numpy", **changes}
    with pytest.raises(AttentionError) as forward:
        attention_varlen(**arguments)
    with pytest.raises(AttentionError) as backward:
        attention_varlen_backward(do=T, o=T, lse=T[..., 0].T, **arguments)
    assert message in str(forward.value)
    assert str(backward.value) == str(forward.value)


BAD_PACKED_BACKWARD = {
    "lse with queries first": (
        {"lse": T[..., 0]},
        "lse must have shape (4, 6) for these q, k and v, not (6, 4)",
    ),
    "do with heads first": (
        {"do": T.swapaxes(0, 1)},
        "do must have shape (6, 4, 8) for these q, k and v, not (4, 6, 8)",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD_PACKED_BACKWARD.values(), ids=BAD_PACKED_BACKWARD)
def test_a_wrong_argument_of_the_packed_backward_is_named(
    changes: dict[str, Any], message: str, oracle: OracleEngine
) -> None:
    arguments: dict[str, Any] = {"do": T, "q": T, "k": T, "v": T, "o": T, "lse": T[..., 0].T, **changes}
    with pytest.raises(AttentionError) as error:
        attention_varlen_backward(**arguments, cu_seqlens_q=CU, cu_seqlens_k=CU, engine="oracle")
    assert str(error.value) == message
