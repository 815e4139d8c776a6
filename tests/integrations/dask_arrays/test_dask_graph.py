"""Graphs of attention on dask arrays: their pairs, their tasks, and the same bits on any scheduler."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from dask.optimization import cull
from helpers.dask_arrays import (
    BATCH,
    DIM,
    HEADS,
    ROWS,
    SHARED,
    Arrays,
    arrays,
    calls,
    lazy,
    options_of,
)
from helpers.support import assert_close
from hypothesis import given, settings

import flashbench
from flashbench.chunks.parts import parts_of
from flashbench.integrations.dask import attention
from flashbench.integrations.dask.tasks import Setting, attend, pair_gradients
from flashbench.problem import AttentionProblem


@settings(max_examples=60)
@given(call=calls())
def test_the_graph_has_the_pairs_that_see_each_other_and_no_other(
    call: tuple[Arrays, Arrays, dict[str, Any]],
) -> None:
    made, chunked, options = call
    batch, _, rows, _ = made.q.shape
    keys = made.k.shape[2]
    lengths = np.array(options["key_lengths"] or [keys] * batch)[:, None, None]
    distance = np.arange(keys) - (np.arange(rows)[:, None] + lengths - rows)
    left, right = options["window"]
    seen = np.broadcast_to(np.arange(keys) < lengths, distance.shape).copy()
    seen &= distance <= (0 if options["causal"] else rows + keys if right is None else right)
    seen &= distance >= -(rows + keys if left is None else left)
    places = (
        [range(end - n, end) for end, n in zip(np.cumsum(sizes), sizes, strict=True) if n]
        for sizes in (chunked.q.chunks[0], chunked.q.chunks[2], chunked.k.chunks[2])
    )
    by_batch, by_rows, by_keys = places
    heads = len(chunked.q.chunks[1])
    expected = {
        (b, h, i, j)
        for b, of_b in enumerate(by_batch)
        for h in range(heads)
        for i, of_i in enumerate(by_rows)
        for j, of_j in enumerate(by_keys)
        if seen[np.ix_(of_b, of_i, of_j)].any()
    }
    o, *_, dv = lazy(chunked, **options)[:5]
    for result, name in ((o, "attention-pair"), (dv, "attention-backward-pair")):
        assert pairs_in(result.dask, name) == expected


def pairs_in(graph: Any, name: str) -> set[tuple[int, ...]]:
    """(chunk of batch, of heads, of queries, of keys) of the tasks with this name."""
    return {key[1:] for key in dict(graph) if isinstance(key, tuple) and key[0].rpartition("-")[0] == name}


def test_a_part_of_the_result_needs_only_its_own_pairs() -> None:
    made = arrays(rows=40, keys=40).chunked(10, 10)
    o = attention(made.q, made.k, made.v, causal=True)
    assert len(pairs_in(o.dask, "attention-pair")) == 10
    needed, _ = cull(dict(o.dask), [(o.name, 0, 0, 1, 0)])
    assert pairs_in(needed, "attention-pair") == {(0, 0, 1, 0), (0, 0, 1, 1)}
    moved = {key[3] for key in needed if key[0] in (made.k.name, made.v.name)}
    assert moved == {0, 1}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_every_scheduler_gives_the_same_bits(cluster: Any, dtype: Any) -> None:
    results = lazy(arrays(dtype).chunked(5, 4, batch=1), **options_of("all", dtype))
    expected = dask.compute(*results, scheduler="synchronous")
    threaded = dask.compute(*results, scheduler="threads", num_workers=3)
    of_cluster = cluster.gather(cluster.compute(results))
    for found in (threaded, of_cluster):
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.tobytes() == theirs.tobytes()


@pytest.fixture(scope="module")
def cluster() -> Any:
    """A client of two worker processes."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


def test_a_task_writes_into_nothing_that_it_gets() -> None:
    """So it may run again, on another worker or on this one."""
    made = arrays(keys=ROWS)
    problem = AttentionProblem.of(ROWS, batch=BATCH, num_heads=HEADS, num_kv_heads=SHARED, head_dim=DIM)
    parts, setting = (
        parts_of(problem, range(BATCH), range(ROWS), range(ROWS)),
        Setting("float64", 0.3, None, None),
    )
    queries, keys = (made.q,), (made.k, made.v)
    before = attend(setting, parts, None, queries, keys)
    sums = made.q * 2, (made.k * 3, made.v * 4)
    for x in (*made, *before, sums[0], *sums[1]):
        x.flags.writeable = False
    o, lse = attend(setting, parts, before, queries, keys)
    assert_close(o, before.o, 1e-14)  # the same keys twice
    assert_close(lse, before.lse + np.log(2), 1e-14)
    given = made.do, made.q, *before
    dq, (dk, dv) = pair_gradients(setting, parts, *sums, given, keys)
    whole = flashbench.attention_backward(made.do, made.q, made.k, made.v, *before, softmax_scale=0.3)
    for mine, start, theirs in zip((dq, dk, dv), (sums[0], *sums[1]), whole, strict=True):
        assert_close(mine - start, theirs, 1e-14)


def test_equal_calls_have_equal_names_and_others_have_not() -> None:
    q, k, v, _ = arrays().chunked(7, 7)
    names = [
        attention(q, k, v, **options).name
        for options in ({}, {}, {"causal": True}, {"sinks": np.zeros(HEADS)}, {"sinks": np.ones(HEADS)})
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 4
