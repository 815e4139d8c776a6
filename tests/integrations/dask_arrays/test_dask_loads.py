"""When chunks are loaded: by a task of ours, and not before they are wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

from dask.callbacks import Callback
from helpers.dask_arrays import arrays, lazy

from flashbench.integrations.dask import attention
from flashbench.integrations.dask.loads import sources_of


class File:
    """An array that is read a chunk at a time."""

    shape, dtype, ndim = (40, 4), np.dtype("f8"), 2

    def __getitem__(self, index: Any) -> Any:
        return np.ones(self.shape)[index]


def random(chunks: Any = (10, 4)) -> Any:
    return da.random.default_rng(0).standard_normal((40, 4), chunks=chunks)


ONE_TASK = {
    "random": random(),
    "a function of it": random().map_blocks(np.exp) + 1,
    "a file": da.from_array(File(), chunks=(10, 4)),
    "delayed": da.concatenate(
        [da.from_delayed(dask.delayed(np.ones)((10, 4)), (10, 4), "f8") for _ in range(4)]
    ),
}
OTHERS = {
    "in memory": random().persist(scheduler="synchronous"),
    "parts of a chunk": random((20, 4)).rechunk((10, 4)),
    "sums over chunks": random().T @ random(),
}


@pytest.mark.parametrize("x", ONE_TASK.values(), ids=ONE_TASK)
def test_a_chunk_that_one_task_makes_is_loaded_by_ours(x: Any) -> None:
    found = sources_of([x])
    assert found.keys() == {(x.name, i, 0) for i in range(4)}
    made = dask.get({**dict(x.dask), "mine": (np.copy, found[x.name, 1, 0])}, "mine")
    assert np.array_equal(made, x[10:20].compute(scheduler="synchronous"))


@pytest.mark.parametrize("x", OTHERS.values(), ids=OTHERS)
def test_other_chunks_stay_tasks_of_their_own(x: Any) -> None:
    assert not sources_of([x])


class Held(Callback):
    """The most chunks of keys that were in memory at once, and how often each chunk was loaded."""

    def __init__(self) -> None:
        super().__init__(posttask=self.count)
        self.most, self.loads = 0, 0

    def count(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        loaded = [key for key in state["cache"] if "load-keys" in str(key)]
        self.most = max(self.most, len(loaded))
        self.loads += "load-keys" in str(key)


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": (7, 0)}], ids=str)
def test_no_more_chunks_of_keys_are_held_than_are_in_flight(in_flight: int, options: dict[str, Any]) -> None:
    q, k, v, _ = arrays(rows=32, keys=32).chunked(8, 2)
    k, v = (x.map_blocks(np.copy) for x in (k, v))  # so that a task loads them
    o = attention(q, k, v, in_flight=in_flight, **options)
    with Held() as held:
        o.compute(scheduler="synchronous")
    assert held.loads == k.numblocks[2]
    assert held.most <= in_flight


def test_each_pass_loads_its_own() -> None:
    made = arrays(rows=32, keys=32).chunked(8, 2)
    made = made._replace(k=made.k.map_blocks(np.copy), v=made.v.map_blocks(np.copy))
    with Held() as held:
        dask.compute(lazy(made, causal=True), scheduler="synchronous")
    assert held.loads == 2 * made.k.numblocks[2]
