"""Attention with every optional feature as a plain formula in PyTorch, with autograd's gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flashbench.extras import Extras
from flashbench.philox import dropout_kept
from flashbench.problem import AttentionProblem, Inputs
from helpers.feature_problems import visible_pairs


class Answers(NamedTuple):
    """The oracle's outputs, by PyTorch; None if the feature is off."""

    o: np.ndarray
    lse: np.ndarray
    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dsinks: np.ndarray | None
    dmask: np.ndarray | None


def answers(problem: AttentionProblem, inputs: Inputs, extras: Extras) -> Answers:
    """All answers in float64, from all scores of a head at once, nothing skipped. Not for keys in pages."""
    import torch

    q, k, v = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs[:3])
    do = torch.tensor(inputs.do, dtype=torch.float64)
    sinks = torch.tensor(extras.sinks, requires_grad=True) if extras.sinks is not None else None
    bias = mask = None
    if problem.mask == "float":
        own = tuple(slice(None) if size > 1 else slice(1) for size in problem.mask_shape)
        bias = torch.tensor(np.maximum(extras.mask[own], -1e300), requires_grad=True)
        mask = bias.expand(problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
    o = torch.zeros(inputs.do.shape, dtype=torch.float64)
    lse = torch.zeros(inputs.do.shape[:3], dtype=torch.float64)
    for b, (row, first_q, first_k, seqlen_q, seqlen_k) in enumerate(problem.sequences()):
        queries = slice(first_q, first_q + seqlen_q)
        keys = slice(first_k, first_k + seqlen_k)
        for h in range(problem.num_heads):
            kv = h // (problem.num_heads // problem.num_kv_heads)
            o[row, h, queries], lse[row, h, queries] = _head(
                problem,
                q[row, h, queries],
                k[row, kv, keys],
                v[row, kv, keys],
                torch.from_numpy(visible_pairs(problem, extras, b, h)),
                None if extras.alibi_slopes is None else float(extras.alibi_slopes[b, h]),
                None if mask is None else mask[b, h, :seqlen_q, :seqlen_k],
                None if sinks is None else sinks[h],
                dropout_kept(problem, b, h, np.arange(seqlen_q), np.arange(seqlen_k)),
            )
    leaves = [x for x in (q, k, v, sinks, bias) if x is not None]
    found = iter(torch.autograd.grad((o * do).sum(), leaves, allow_unused=True, materialize_grads=True))
    gradients = [None if x is None else next(found).numpy() for x in (q, k, v, sinks, bias)]
    return Answers(o.detach().numpy(), lse.detach().numpy(), *gradients)


def _head(
    problem: AttentionProblem,
    q: Any,
    k: Any,
    v: Any,
    visible: Any,
    slope: float | None,
    mask: Any,
    sink: Any,
    kept: np.ndarray,
) -> tuple[Any, Any]:
    import torch

    s = problem.scale * q @ k.T
    if problem.softcap is not None:
        s = problem.softcap * torch.tanh(s / problem.softcap)
    if slope is not None:
        diagonal = len(k) - len(q) if problem.causal_alignment == "bottom-right" else 0
        distance = (torch.arange(len(q))[:, None] + diagonal - torch.arange(len(k))).abs()
        s = s - slope * distance.double()
    if mask is not None:
        s = s + mask
    s = torch.where(visible, s, -torch.inf)
    s = torch.cat([s, (torch.tensor(-torch.inf) if sink is None else sink).expand(len(q), 1)], dim=1)
    lse = torch.logsumexp(s, dim=1)
    # Leave out rows without keys: their softmax would be NaN, and so would its gradients.
    some = torch.isfinite(lse)
    p = torch.zeros(visible.shape, dtype=torch.float64)
    p[some] = torch.softmax(s[some], dim=1)[:, :-1]
    return (p * torch.from_numpy(kept) / (1 - problem.dropout)) @ v, lse
