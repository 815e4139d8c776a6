"""What flash-attention returns as S_dmask: probabilities, negative where dropout dropped the pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flashbench.integrations.flash_attn.attend import attend
from flashbench.integrations.torch.options import Options
from flashbench.philox import dropout_kept
from flashbench.problem import MAX_HEAD_DIM, AttentionProblem


@torch.compiler.disable  # it draws by NumPy
@torch.no_grad()
def signed_probabilities(q: Tensor, k: Tensor, options: Options, first_sequence: int = 0) -> Tensor:
    """(batch, heads, seqlen_q, seqlen_k), in q's dtype. Memory grows with the square of the length.

    p v is p where v is a unit matrix: so these are the probabilities of the attention that ran, with all its
    options. first_sequence: the place of the first sequence in the call that drew the dropout.
    """
    batch, heads, seqlen_q, _ = q.shape
    kv_heads, seqlen_k = k.shape[1:3]
    plain = options._replace(dropout=0.0, dropout_seed=None)
    p = q.new_empty(batch, heads, seqlen_q, seqlen_k)
    for first in range(0, seqlen_k, MAX_HEAD_DIM):
        end = min(seqlen_k, first + MAX_HEAD_DIM)
        unit = torch.eye(seqlen_k, end - first, dtype=q.dtype, device="cpu").roll(first, 0)
        v = unit.expand(batch, kv_heads, -1, -1)
        p[..., first:end], _ = attend(q, k, v, plain, lse=False)
    return torch.where(_kept(p.shape, options, first_sequence), p, -p)


def _kept(shape: torch.Size, options: Options, first_sequence: int) -> Tensor:
    batch, heads, seqlen_q, seqlen_k = shape
    assert options.dropout_seed is not None
    drawn = AttentionProblem.of(
        seqlen_q,
        seqlen_k=seqlen_k,
        dropout=options.dropout,
        dropout_seed=int(options.dropout_seed) % 2**64,
    )
    rows, columns = np.arange(seqlen_q), np.arange(seqlen_k)
    kept = [
        [dropout_kept(drawn, first_sequence + b, h, rows, columns) for h in range(heads)]
        for b in range(batch)
    ]
    return torch.from_numpy(np.array(kept))
