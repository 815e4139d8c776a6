"""Attention and its gradients as lazy graphs: one task for each pair of chunks that see each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from operator import getitem
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import dask.array as da
import msgspec
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from flashbench.arguments.arrays import accumulator_dtype
from flashbench.arguments.options import with_options
from flashbench.engines import AttentionGradients
from flashbench.functional import AttentionOutput
from flashbench.integrations.dask import tasks
from flashbench.integrations.dask.grid import Grid, grid_of
from flashbench.problem import Window

if TYPE_CHECKING:
    from typing_extensions import Unpack

Tasks = dict[Any, Any]


class ChunkedOptions(TypedDict, total=False):
    """Keywords of both functions."""

    softmax_scale: float | None
    causal: bool
    window: Window
    softcap: float | None
    alibi_slopes: Any
    sinks: Any
    key_lengths: Any


@overload
def attention(
    q: Any, k: Any, v: Any, *, return_lse: Literal[False] = False, **options: Unpack[ChunkedOptions]
) -> Any: ...


@overload
def attention(
    q: Any, k: Any, v: Any, *, return_lse: Literal[True], **options: Unpack[ChunkedOptions]
) -> AttentionOutput: ...


@with_options(ChunkedOptions)
def attention(q: Any, k: Any, v: Any, *, return_lse: bool = False, **options: Unpack[ChunkedOptions]) -> Any:
    """`flashbench.attention` on dask arrays: exact, lazy, and no task holds more than a pair of chunks.

    Each chunk of queries goes through the chunks of keys in the order of ring attention (Liu et al. 2023,
    "Ring Attention with Blockwise Transformers"), and merges what it finds as `merge_attention` does. Pairs
    that causal, window or key_lengths hide are not in the graph.

    Args:
        q: (batch, num_heads, seqlen_q, head_dim), a dask array of float64, float32, bfloat16 or float16, in
            any chunks along batch and sequence. Chunks along num_heads hold whole groups of heads that share
            a key head.
        k: (batch, num_kv_heads, seqlen_k, head_dim), in any chunks along the sequence. Along batch and heads
            it is rechunked as q.
        v: (batch, num_kv_heads, seqlen_k, head_dim_v), rechunked as k.
        **options: softmax_scale, causal, window, softcap, alibi_slopes, sinks, key_lengths: as in
            `flashbench.attention`, with causal_alignment "bottom-right" of whole sequences. Arrays among them
            are in memory, not Dask's.
        return_lse: also return lse, which `attention_backward` needs.

    Returns:
        o: (batch, num_heads, seqlen_q, head_dim_v), a dask array of q's dtype in q's chunks. With return_lse:
        AttentionOutput(o, lse), lse (batch, num_heads, seqlen_q): float32 for 16-bit dtypes, else of q's.
        Its bits depend on the chunks, but neither on the scheduler nor on the number of workers.

    Raises:
        AttentionError: an argument breaks a rule.

    >>> import dask.array
    >>> q = k = v = dask.array.ones((1, 2, 100, 8), chunks=(1, 2, 30, 8))
    >>> attention(q, k, v, causal=True).sum().compute(scheduler="synchronous").round(9)
    np.float64(1600.0)
    """
    grid, _ = grid_of("fwd", {"q": q, "k": k, "v": v}, dict(options))
    token = _token(grid)
    pair, result, o, lse = (f"attention-{task}-{token}" for task in ("pair", "result", "output", "lse"))
    pairs: Tasks = {}
    results: Tasks = {}
    batch, heads, queries, _ = grid.places()
    for (b, sequences), (h, of_heads) in itertools.product(enumerate(batch), enumerate(heads)):
        setting, sinks_here = grid.setting(sequences, of_heads), grid.sinks(of_heads)
        last: dict[int, Any] = {}  # the last task of each chunk of queries
        for i, j, parts in grid.pairs(sequences):
            arrays = (grid.q.name, b, h, i, 0), (grid.k.name, b, h, j, 0), (grid.v.name, b, h, j, 0)
            pairs[pair, b, h, i, j] = (tasks.attend, setting, parts, last.get(i), *arrays)
            last[i] = pair, b, h, i, j
        for i, rows in enumerate(queries):
            shape = len(sequences), len(of_heads), len(rows), grid.problem.head_dim_v
            results[result, b, h, i] = (tasks.finish, setting, shape, sinks_here, last.get(i))
    outputs: dict[str, Tasks] = {
        o: {(o, *key[1:], 0): (getitem, key, 0) for key in results},
        lse: {(lse, *key[1:]): (getitem, key, 1) for key in results},
    }
    graph = _graph([grid.q, grid.k, grid.v], pair, pairs | results, outputs)
    chunks = grid.q.chunks[:3]
    of_o = _array(graph, o, (*chunks, (grid.problem.head_dim_v,)), grid.q.dtype)
    if not return_lse:
        return of_o
    return AttentionOutput(of_o, _array(graph, lse, chunks, accumulator_dtype(grid.problem.dtype)))


@with_options(ChunkedOptions)
def attention_backward(
    do: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, **options: Unpack[ChunkedOptions]
) -> AttentionGradients:
    """`flashbench.attention_backward` on dask arrays: gradients of sum(do * attention(q, k, v)).

    The pairs are those of `attention`. Sums of dq stay with their chunk of queries. Sums of dk and dv go
    round the ring. Both are in float32 for 16-bit dtypes, and rounded at the end.

    Args:
        do: gradient of the loss by o, in o's shape; it, o and lse are rechunked as q.
        q, k, v: as in `attention`.
        o, lse: what `attention(..., return_lse=True)` returned for them with the same options.
        **options: as in `attention`, with the same values.

    Returns:
        AttentionGradients, which unpacks into dq, dk and dv: dask arrays in the shapes, the dtype and the
        chunks of q, k and v. Its `dsinks` is (num_heads,), None without sinks.

    Raises:
        AttentionError: an argument breaks a rule.

    >>> import dask, dask.array
    >>> q = k = v = dask.array.ones((1, 2, 100, 8), chunks=(1, 2, 30, 8))
    >>> o, lse = attention(q, k, v, return_lse=True)
    >>> dv = attention_backward(dask.array.ones_like(o), q, k, v, o, lse).dv
    >>> dv.sum().compute(scheduler="synchronous").round(9)
    np.float64(1600.0)
    """
    arrays = {"q": q, "k": k, "v": v, "do": do, "o": o, "lse": lse}
    grid, fitted = grid_of("bwd", arrays, dict(options))
    do, o, lse = (fitted[name] for name in ("do", "o", "lse"))
    token = _token(grid, do.name, o.name, lse.name)
    pair, of_queries, of_keys, of_sink, dq, dk, dv, dsinks = (
        f"attention-backward-{task}-{token}"
        for task in ("pair", "queries", "keys", "sinks", "dq", "dk", "dv", "dsinks")
    )
    pairs: Tasks = {}
    outputs: dict[str, Tasks] = {dq: {}, dk: {}, dv: {}}
    totals: dict[int, list[Any]] = {}  # the shares in dsinks by chunk of heads
    batch, heads, queries, keys = grid.places()
    for (b, sequences), (h, of_heads) in itertools.product(enumerate(batch), enumerate(heads)):
        setting, sinks_here = grid.setting(sequences, of_heads), grid.sinks(of_heads)
        sum_of_dq: dict[int, Any] = {}  # the last task that added to each chunk
        sum_of_dk_dv: dict[int, Any] = {}
        for i, j, parts in grid.pairs(sequences):
            key, to_queries, to_keys = ((name, b, h, i, j) for name in (pair, of_queries, of_keys))
            of_i, of_j = (b, h, i, 0), (b, h, j, 0)
            pairs[key] = (
                tasks.pair_gradients, setting, parts, sum_of_dq.get(i), sum_of_dk_dv.get(j),
                (do.name, *of_i), (grid.q.name, *of_i), (grid.k.name, *of_j), (grid.v.name, *of_j),
                (o.name, *of_i), (lse.name, b, h, i),
            )  # fmt: skip
            # Two tasks, because the halves go to different workers.
            pairs[to_queries], pairs[to_keys] = (getitem, key, 0), (getitem, key, 1)
            sum_of_dq[i], sum_of_dk_dv[j] = to_queries, to_keys
        for i, rows in enumerate(queries):
            shape = len(sequences), len(of_heads), len(rows), grid.problem.head_dim
            outputs[dq][dq, b, h, i, 0] = (tasks.finish_gradient, setting, shape, sum_of_dq.get(i))
            if sinks_here is not None:
                share = of_sink, b, h, i
                given = (do.name, b, h, i, 0), (o.name, b, h, i, 0), (lse.name, b, h, i)
                pairs[share] = (tasks.sinks_share, grid.problem, sinks_here, *given)
                totals.setdefault(h, []).append(share)
        for (name, which, x), (j, rows) in itertools.product(
            ((dk, 0, grid.k), (dv, 1, grid.v)), enumerate(keys)
        ):
            shape = len(sequences), grid.k.chunks[1][h], len(rows), x.shape[3]
            both = sum_of_dk_dv.get(j)
            found = None if both is None else (getitem, both, which)
            outputs[name][name, b, h, j, 0] = (tasks.finish_gradient, setting, shape, found)
    outputs[dsinks] = {(dsinks, h): (sum, shares) for h, shares in totals.items()}
    graph = _graph([grid.q, grid.k, grid.v, do, o, lse], pair, pairs, outputs)
    sinks = grid.extras.sinks
    return AttentionGradients(
        _array(graph, dq, grid.q.chunks, grid.q.dtype),
        _array(graph, dk, grid.k.chunks, grid.k.dtype),
        _array(graph, dv, grid.v.chunks, grid.v.dtype),
        None if sinks is None else _array(graph, dsinks, grid.q.chunks[1:2], sinks.dtype),
    )


def _token(grid: Grid, *others: str) -> str:
    """The same for equal arguments, so that Dask computes them once."""
    problem, extras = msgspec.structs.astuple(grid.problem), tuple(grid.extras)
    return str(tokenize(problem, extras, grid.q.name, grid.k.name, grid.v.name, *others))


def _graph(
    inputs: Sequence[da.Array], name: str, tasks: Tasks, outputs: Mapping[str, Tasks]
) -> HighLevelGraph:
    """A layer of the tasks, which read the inputs, and one for each output."""
    layers: dict[str, Any] = {}
    needs: dict[str, set[str]] = {}
    for x in inputs:
        layers.update(x.dask.layers)
        needs.update(x.dask.dependencies)
    layers[name], needs[name] = tasks, {x.name for x in inputs}
    for output, of_output in outputs.items():
        layers[output], needs[output] = of_output, {name}
    return HighLevelGraph(layers, needs)


def _array(graph: HighLevelGraph, name: str, chunks: Any, dtype: Any) -> Any:
    return da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), dtype))
