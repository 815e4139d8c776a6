"""Checked arguments: a problem, and q, k and v in chunks that fit each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from flashbench.arguments import Call, check
from flashbench.chunks.parts import Part, Places, places_of, steps_of
from flashbench.errors import AttentionError
from flashbench.extras import Extras
from flashbench.integrations.dask.tasks import Setting
from flashbench.problem import AttentionProblem, Direction

Block = tuple[int, int]  # numbers of a chunk of batch and of a chunk of heads


class Step(NamedTuple):
    """One chunk of keys and the chunks of queries that see it."""

    block: Block
    setting: Setting
    keys: int
    pairs: list[tuple[int, tuple[Part, ...]]]  # a chunk of queries, and what it sees of the keys


class Grid(NamedTuple):
    """A problem in chunks. q, k and v: (batch, heads, sequence, head_dim), of one chunk along head_dim."""

    problem: AttentionProblem
    extras: Extras
    q: da.Array
    k: da.Array
    v: da.Array

    def places(self) -> tuple[Places, Places, Places, Places]:
        """Along batch, heads, queries and keys."""
        batch, heads, queries, _ = self.q.chunks
        return places_of(batch), places_of(heads), places_of(queries), places_of(self.k.chunks[2])

    def setting(self, sequences: range, heads: range) -> Setting:
        """The options of this chunk of batch and heads."""
        p, slopes = self.problem, self.extras.alibi_slopes
        if slopes is not None:
            slopes = slopes[sequences.start : sequences.stop, heads.start : heads.stop]
        return Setting(p.dtype, p.scale, p.softcap, slopes)

    def sinks(self, heads: range) -> Any:
        """The sinks of this chunk of heads; None without sinks."""
        return None if self.extras.sinks is None else self.extras.sinks[heads.start : heads.stop]

    def blocks(self) -> Iterator[tuple[Block, range, range]]:
        """(its numbers, its sequences, its heads) of each chunk of batch and heads of q."""
        batch, heads, _, _ = self.places()
        for (b, sequences), (h, of_heads) in itertools.product(enumerate(batch), enumerate(heads)):
            yield (b, h), sequences, of_heads

    def steps(self) -> list[Step]:
        """All pairs that are not hidden, in the order in which they are computed: that of `steps_of`."""
        found = []
        _, _, queries, keys = self.places()
        for block, sequences, heads in self.blocks():
            setting = self.setting(sequences, heads)
            steps = steps_of(self.problem, sequences, queries, keys)
            found += [Step(block, setting, j, pairs) for j, pairs in steps]
        return found


def grid_of(
    direction: Direction,
    arrays: dict[str, Any],
    options: dict[str, Any],
) -> tuple[Grid, dict[str, da.Array]]:
    """The grid, and the arrays beside q, k and v in q's chunks.

    arrays: q, k and v, and for "bwd" do, o and lse. options: of `flashbench.attention`.
    Raises AttentionError, UnsupportedError.
    """
    for name, x in arrays.items():
        _check_array(name, x, 3 if name == "lse" else 4)
    shown = {name: np.broadcast_to(np.zeros((), x.dtype), x.shape) for name, x in arrays.items()}
    call: Call = check(direction, shown["q"], shown["k"], shown["v"], **options)
    for name in ("do", "o", "lse"):
        if name in arrays:
            call.take(name, shown[name], "lse" if name == "lse" else "o")
    group = call.problem.num_heads // call.problem.num_kv_heads
    batch, heads, queries = (_filled(sizes) for sizes in arrays["q"].chunks[:3])
    if any(size % group for size in heads):
        raise AttentionError(
            f"q must be chunked along num_heads in multiples of {group}, the query heads that share a key "
            f"head, not {heads}",
            hint="q.rechunk({1: -1})",
        )
    of_keys = batch, tuple(size // group for size in heads), _filled(arrays["k"].chunks[2])
    fitted = {
        name: x.rechunk((of_keys if name in "kv" else (batch, heads, queries)) + x.shape[3:])
        for name, x in arrays.items()
    }
    q, k, v = (fitted.pop(name) for name in "qkv")
    return Grid(call.problem, call.extras, q, k, v), fitted


def _check_array(name: str, x: Any, ndim: int) -> None:
    if not isinstance(x, da.Array):
        raise AttentionError(
            f"{name} must be a dask array, not {type(x).__name__}", hint=f"dask.array.from_array({name})"
        )
    if x.ndim != ndim:
        axes = ("batch", "num_heads", "seqlen", "head_dim")[:ndim]
        raise AttentionError(f"{name} must be {ndim}-D ({', '.join(axes)}), but has shape {x.shape}")
    if any(map(math.isnan, x.shape)):
        raise AttentionError(
            f"{name} must have chunks of known sizes, not {x.chunks}", hint=f"{name}.compute_chunk_sizes()"
        )


def _filled(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Without empty chunks."""
    return tuple(size for size in sizes if size)
