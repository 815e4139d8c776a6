"""Attention and its gradients as lazy graphs: one task for each pair of chunks that see each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from operator import getitem
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import dask.array as da
import msgspec
import numpy as np
from dask._task_spec import TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from flashbench.arguments.arrays import accumulator_dtype
from flashbench.arguments.options import with_options
from flashbench.chunks.memory import in_flight_or_default
from flashbench.engines import AttentionGradients
from flashbench.functional import AttentionOutput
from flashbench.integrations.dask import tasks
from flashbench.integrations.dask.grid import Block, Grid, grid_of
from flashbench.integrations.dask.loads import Placed, load, sources_of
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
    q: Any,
    k: Any,
    v: Any,
    *,
    return_lse: Literal[False] = False,
    in_flight: int | None = None,
    **options: Unpack[ChunkedOptions],
) -> Any: ...


@overload
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    return_lse: Literal[True],
    in_flight: int | None = None,
    **options: Unpack[ChunkedOptions],
) -> AttentionOutput: ...


@with_options(ChunkedOptions)
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    return_lse: bool = False,
    in_flight: int | None = None,
    **options: Unpack[ChunkedOptions],
) -> Any:
    """`flashbench.attention` on dask arrays: exact, lazy, and no task holds more than a pair of chunks.

    All chunks of queries meet the first chunk of keys, then all meet the second, as in blockwise attention
    (Liu et al. 2023, "Blockwise Parallel Transformer"). Each merges what it finds as `merge_attention` does.
    So a chunk of keys is loaded once, goes to each worker once, and is dropped soon. Pairs that causal,
    window or key_lengths hide are not in the graph.

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
        in_flight: how many chunks of keys may be in use at once: a chunk is loaded when the one so many
            places before it is done. More of them take more memory (`worker_memory`), and let one worker be
            further ahead of another. None: one more than Dask's current client has workers.

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
    ahead = in_flight_or_default(in_flight)
    token = _token(grid, ahead)
    names = ("load-queries", "load-keys", "pair", "seen", "result", "output", "lse")
    of_queries, of_keys, pair, seen, result, o, lse = (f"attention-{name}-{token}" for name in names)
    sources = sources_of([grid.q, grid.k, grid.v])
    made: Tasks = {}
    results: Tasks = {}
    last: dict[Any, Any] = {}  # the last task of each chunk of queries
    done: list[list[Any]] = []  # tasks that are done when a step is
    for block, setting, j, pairs in grid.steps():
        after = done[-ahead] if len(done) >= ahead else []
        keys = of_keys, *block, j
        made[keys] = load(keys, [(x.name, *block, j, 0) for x in (grid.k, grid.v)], sources, after)
        for i, parts in pairs:
            queries, key = (of_queries, *block, i), (pair, *block, i, j)
            if queries not in last:
                made[queries] = load(queries, [(grid.q.name, *block, i, 0)], sources, after)
            before = TaskRef(last[queries]) if queries in last else None
            made[key] = Placed(key, tasks.attend, setting, parts, before, TaskRef(queries), TaskRef(keys))
            made[(seen, *block, i, j)] = (tasks.nothing, key)
            last[queries] = key
        done.append([(seen, *block, i, j) for i, _ in pairs])
    for block, sequences, of_heads in grid.blocks():
        setting, sinks_here = grid.setting(sequences, of_heads), grid.sinks(of_heads)
        for i, rows in enumerate(grid.places()[2]):
            shape = len(sequences), len(of_heads), len(rows), grid.problem.head_dim_v
            found = last.get((of_queries, *block, i))
            results[(result, *block, i)] = (tasks.finish, setting, shape, sinks_here, found)
    outputs: dict[str, Tasks] = {
        o: {(o, *key[1:], 0): (getitem, key, 0) for key in results},
        lse: {(lse, *key[1:]): (getitem, key, 1) for key in results},
    }
    graph = _graph([grid.q, grid.k, grid.v], pair, made | results, outputs)
    chunks = grid.q.chunks[:3]
    of_o = _array(graph, o, (*chunks, (grid.problem.head_dim_v,)), grid.q.dtype)
    if not return_lse:
        return of_o
    return AttentionOutput(of_o, _array(graph, lse, chunks, accumulator_dtype(grid.problem.dtype)))


@with_options(ChunkedOptions)
def attention_backward(
    do: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    *,
    in_flight: int | None = None,
    **options: Unpack[ChunkedOptions],
) -> AttentionGradients:
    """`flashbench.attention_backward` on dask arrays: gradients of sum(do * attention(q, k, v)).

    The pairs are those of `attention`, in its order. Sums of dq stay with their chunk of queries. Sums of dk
    and dv go from one chunk of queries to the next. Both are in float32 for 16-bit dtypes, and rounded at the
    end.

    Args:
        do: gradient of the loss by o, in o's shape; it, o and lse are rechunked as q.
        q, k, v: as in `attention`.
        o, lse: what `attention(..., return_lse=True)` returned for them with the same options.
        **options: as in `attention`, with the same values.
        in_flight: as in `attention`. At most so many pairs are computed at once.

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
    ahead = in_flight_or_default(in_flight)
    token = _token(grid, ahead, do.name, o.name, lse.name)
    steps = ("load-queries", "load-keys", "pair", "queries", "keys", "seen", "sinks")
    of_queries, of_keys, pair, to_queries, to_keys, seen, of_sink, dq, dk, dv, dsinks = (
        f"attention-backward-{name}-{token}" for name in (*steps, "dq", "dk", "dv", "dsinks")
    )
    sources = sources_of([do, grid.q, grid.k, grid.v, o, lse])
    made: Tasks = {}
    outputs: dict[str, Tasks] = {dq: {}, dk: {}, dv: {}}
    totals: dict[int, list[Any]] = {}  # the shares in dsinks by chunk of heads
    sum_of_dq: dict[Any, Any] = {}  # the last task that added to each chunk
    sum_of_dk_dv: dict[Any, Any] = {}
    done: list[list[Any]] = []  # tasks that are done when a step is

    def queries_of(block: Block, i: int, after: Sequence[Any]) -> Any:
        """The task that loads what a chunk of queries brings."""
        key = of_queries, *block, i
        if key not in made:
            chunks = *((x.name, *block, i, 0) for x in (do, grid.q, o)), (lse.name, *block, i)
            made[key] = load(key, chunks, sources, after)
        return key

    for block, setting, j, pairs in grid.steps():
        after = done[-ahead] if len(done) >= ahead else []
        keys = of_keys, *block, j
        made[keys] = load(keys, [(x.name, *block, j, 0) for x in (grid.k, grid.v)], sources, after)
        for i, parts in pairs:
            queries, key = queries_of(block, i, after), (pair, *block, i, j)
            dq_so_far, dk_dv_so_far = sum_of_dq.get(queries), sum_of_dk_dv.get(keys)
            made[key] = (tasks.pair_gradients, setting, parts, dq_so_far, dk_dv_so_far, queries, keys)
            # Two tasks, because the halves go to different workers.
            sum_of_dq[queries], sum_of_dk_dv[keys] = (to_queries, *key[1:]), (to_keys, *key[1:])
            made[sum_of_dq[queries]], made[sum_of_dk_dv[keys]] = (getitem, key, 0), (getitem, key, 1)
        made[(seen, *key[1:])] = (tasks.nothing, sum_of_dk_dv[keys])  # of the last pair, which waits for all
        done.append([(seen, *key[1:])])
    for block, sequences, of_heads in grid.blocks():
        setting, sinks_here = grid.setting(sequences, of_heads), grid.sinks(of_heads)
        for i, rows in enumerate(grid.places()[2]):
            shape = len(sequences), len(of_heads), len(rows), grid.problem.head_dim
            found = sum_of_dq.get((of_queries, *block, i))
            outputs[dq][(dq, *block, i, 0)] = (tasks.finish_gradient, setting, shape, found)
            if sinks_here is not None:
                share = of_sink, *block, i
                made[share] = (tasks.sinks_share, grid.problem, sinks_here, queries_of(block, i, ()))
                totals.setdefault(block[1], []).append(share)
        for (name, which, x), (j, rows) in itertools.product(
            ((dk, 0, grid.k), (dv, 1, grid.v)), enumerate(grid.places()[3])
        ):
            shape = len(sequences), grid.k.chunks[1][block[1]], len(rows), x.shape[3]
            both = sum_of_dk_dv.get((of_keys, *block, j))
            found = None if both is None else (getitem, both, which)
            outputs[name][(name, *block, j, 0)] = (tasks.finish_gradient, setting, shape, found)
    outputs[dsinks] = {(dsinks, h): (sum, shares) for h, shares in totals.items()}
    graph = _graph([grid.q, grid.k, grid.v, do, o, lse], pair, made, outputs)
    sinks = grid.extras.sinks
    return AttentionGradients(
        _array(graph, dq, grid.q.chunks, grid.q.dtype),
        _array(graph, dk, grid.k.chunks, grid.k.dtype),
        _array(graph, dv, grid.v.chunks, grid.v.dtype),
        None if sinks is None else _array(graph, dsinks, grid.q.chunks[1:2], sinks.dtype),
    )


def _token(grid: Grid, *others: str | int) -> str:
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
