"""PyTorch's FlexAttention, compiled for CPUs: it compiles functions of a score into its kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask as Blocks
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from flashbench.block_mask import BlockMask
from flashbench.engines.peers import FlexOutline
from flashbench.engines.peers.torch_tensors import array, set_threads, tensor
from flashbench.engines.protocol import Array, Forward, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction

_Mod = Callable[..., Any]


class FlexEngine(FlexOutline):
    """`torch.nn.attention.flex_attention.flex_attention` under `torch.compile`.

    It is compiled for each problem, which takes seconds; the last one is kept. Hidden pairs have a mask_mod,
    the rest a score_mod. Tiles that a mask hides are found before the first call, as its users do.
    """

    summary = "PyTorch's FlexAttention, compiled, forward only"

    def __init__(self) -> None:
        self._compiled: Any = None
        self._problem: AttentionProblem | None = None

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """o; compiled for CPUs, FlexAttention returns no lse."""
        set_threads(settings.num_threads)
        if self._problem != problem:
            torch._dynamo.reset()
            self._compiled, self._problem = torch.compile(flex_attention, dynamic=False), problem
        mods = _mods(problem, extras)
        with torch.no_grad():
            o = self._compiled(
                tensor(q),
                tensor(k),
                tensor(v),
                score_mod=mods.score,
                block_mask=_blocks(problem, mods.shown),
                scale=problem.scale,
                enable_gqa=problem.num_heads != problem.num_kv_heads,
            )
        return Forward(array(o), None)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """Always the one that it compiles."""
        return Ran("flex")


class _Mods(NamedTuple):
    """score_mod(score, b, h, i, j) and mask_mod(b, h, i, j); None: there is none."""

    score: _Mod | None
    shown: _Mod | None


def _mods(problem: AttentionProblem, extras: Extras) -> _Mods:
    """The problem's features as functions of one score, in the order of flashbench."""
    scores: list[_Mod] = []
    if problem.softcap is not None:
        cap = problem.softcap
        scores.append(lambda s, b, h, i, j: cap * torch.tanh(s / cap))
    offset = _offsets(problem)
    if extras.alibi_slopes is not None:
        slopes = torch.from_numpy(extras.alibi_slopes.copy())
        scores.append(lambda s, b, h, i, j: s - slopes[b, h] * (i + offset[b] - j).abs())
    if problem.mask == "float" and isinstance(extras.mask, np.ndarray):  # block masks have no numbers
        added = torch.from_numpy(extras.mask.copy())
        scores.append(lambda s, b, h, i, j: s + added[b, h, i, j])
    shown = [*_limits(problem, offset)]
    if extras.mask is not None and problem.mask != "float":
        mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
        full = problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k
        may = torch.from_numpy(mask.copy()).expand(full)
        shown.append(lambda b, h, i, j: may[b, h, i, j])
    return _Mods(_in_turn(scores) if scores else None, _all_of(shown) if shown else None)


def _offsets(problem: AttentionProblem) -> Any:
    """Of each sequence: the key at which its first query stands."""
    bottom = problem.causal_alignment == "bottom-right"
    lengths = problem.key_lengths or (problem.seqlen_k,) * problem.batch
    return torch.tensor([length - problem.seqlen_q if bottom else 0 for length in lengths])


def _limits(problem: AttentionProblem, offset: Any) -> list[_Mod]:
    found: list[_Mod] = []
    right = 0 if problem.causal else problem.window_right
    left = problem.window_left
    if right is not None:
        found.append(lambda b, h, i, j: j <= i + offset[b] + right)
    if left is not None:
        found.append(lambda b, h, i, j: j >= i + offset[b] - left)
    if problem.key_lengths is not None:
        lengths = torch.tensor(problem.key_lengths)
        found.append(lambda b, h, i, j: j < lengths[b])
    return found


def _in_turn(mods: list[_Mod]) -> _Mod:
    def score(s: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        for mod in mods:
            s = mod(s, b, h, i, j)
        return s

    return score


def _all_of(mods: list[_Mod]) -> _Mod:
    def shown(b: Any, h: Any, i: Any, j: Any) -> Any:
        found = mods[0](b, h, i, j)
        for mod in mods[1:]:
            found = found & mod(b, h, i, j)
        return found

    return shown


def _blocks(problem: AttentionProblem, shown: _Mod | None) -> Blocks | None:
    if shown is None:
        return None
    return create_block_mask(
        shown, problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k, device="cpu"
    )
