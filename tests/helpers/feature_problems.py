"""Problems with any subset of the optional features, for property tests, and extras that exercise them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from flashbench.block_mask import BlockMask
from flashbench.dtypes import accumulator_of
from flashbench.extras import Extras, make_extras
from flashbench.problem import AttentionProblem, Feature

HIDDEN_SHARE = 0.3


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    without: frozenset[Feature] = frozenset(),
    longest: int = 9,
    widest: int = 4,
    most_heads: int = 2,
    dtype: Any = "float64",
) -> AttentionProblem:
    """Small problems. Each feature that is not in `without` is on in some of them."""

    def maybe(feature: Feature, strategy: st.SearchStrategy[Any], off: Any = None) -> Any:
        if feature in without or not draw(st.booleans()):
            return off
        return draw(strategy)

    lengths = st.integers(1, longest)
    batch, num_kv_heads = draw(st.integers(1, 3)), draw(st.integers(1, most_heads))
    seqlen_q, seqlen_k = draw(lengths), draw(lengths)
    mask = maybe("mask", st.sampled_from(["bool", "float", "block"]))
    axes = "".join(draw(st.sets(st.sampled_from("bh" if mask == "block" else "bhqk"))))
    axes = "".join(axis for axis in "bhqk" if axis in axes or (mask == "block" and axis in "qk"))
    keys = st.lists(st.integers(0, seqlen_k), min_size=batch, max_size=batch).map(tuple)
    queries = st.lists(st.integers(0, seqlen_q), min_size=batch, max_size=batch).map(tuple)
    query_lengths = maybe("varlen", queries)
    key_lengths = draw(keys) if query_lengths is not None else maybe("key_lengths", keys)
    edges = st.one_of(st.none(), st.integers(0, longest))
    return AttentionProblem.of(
        seqlen_q,
        seqlen_k=seqlen_k,
        batch=batch,
        num_heads=num_kv_heads * draw(st.integers(1, most_heads)),
        num_kv_heads=num_kv_heads,
        head_dim=draw(st.integers(1, widest)),
        head_dim_v=draw(st.integers(1, widest)),
        dtype=dtype,
        causal=draw(st.booleans()),
        causal_alignment=draw(st.sampled_from(["bottom-right", "top-left"])),
        softmax_scale=draw(st.sampled_from([None, 0.7])),
        window=maybe("window", st.tuples(edges, edges), (None, None)),
        softcap=maybe("softcap", st.sampled_from([0.5, 2.0, 30.0])),
        alibi=maybe("alibi", st.just(True), False),
        sinks=maybe("sinks", st.just(True), False),
        mask=mask,
        mask_axes=axes,
        mask_block_q=draw(st.integers(1, 5)) if mask == "block" else 64,
        mask_block_k=draw(st.integers(1, 5)) if mask == "block" else 64,
        dropout=maybe("dropout", st.sampled_from([0.1, 0.5, 0.9]), 0.0),
        dropout_seed=draw(st.integers(0, 2**64 - 1)),
        key_lengths=key_lengths,
        query_lengths=query_lengths,
        page_size=maybe("block_table", st.integers(1, 4)),
    )


def random_extras(problem: AttentionProblem, seed: int = 0) -> Extras:
    """`make_extras`, but with other slopes for every head, random block masks, and float masks that hide some
    pairs by -inf.
    """
    extras = make_extras(problem, seed)
    make = accumulator_of(problem.dtype).make
    rng = np.random.default_rng((seed, 2))
    shape = (problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
    if problem.alibi:
        extras = extras._replace(alibi_slopes=make(rng.uniform(0, 1, shape[:2])))
    if problem.mask == "block":
        mask = rng.random(problem.mask_shape) < HIDDEN_SHARE
        block = problem.mask_block_q, problem.mask_block_k
        extras = extras._replace(mask=BlockMask.from_mask(~mask, block))
    if problem.mask == "float":
        mask = rng.standard_normal(problem.mask_shape)
        mask[rng.random(problem.mask_shape) < HIDDEN_SHARE] = -np.inf
        extras = extras._replace(mask=np.broadcast_to(make(mask), shape))
    return extras


def visible_pairs(problem: AttentionProblem, extras: Extras, b: int, h: int) -> np.ndarray:
    """The visible pairs in one head of one sequence, pair by pair: (its seqlen_q, its seqlen_k)."""
    sequence = problem.sequences()[b]
    diagonal = 0
    if problem.causal_alignment == "bottom-right":
        diagonal = sequence.seqlen_k - sequence.seqlen_q
    left, right = problem.window_left, 0 if problem.causal else problem.window_right
    i, j = np.indices((sequence.seqlen_q, sequence.seqlen_k))
    visible = np.ones(i.shape, dtype=bool)
    if left is not None:
        visible &= j >= i + diagonal - left
    if right is not None:
        visible &= j <= i + diagonal + right
    mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
    if mask is not None:
        mask = np.broadcast_to(mask, (problem.batch, problem.num_heads, *mask.shape[2:]))[b, h][i, j]
        visible &= ~np.isneginf(mask) if problem.mask == "float" else mask
    return visible
