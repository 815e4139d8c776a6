"""What `flashbench plan` counts, against Dask's graphs and against what two workers send each other."""

from __future__ import annotations

from typing import Any

import pytest

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull
from dask.utils import ensure_dict
from helpers.dask_cluster import local_cluster, received
from helpers.plans import layouts
from hypothesis import given

from flashbench.dtypes import DTYPES
from flashbench.integrations.dask import attention, attention_backward
from flashbench.problem import AttentionProblem
from flashbench.studies.plan.layout import Layout


def graphs(layout: Layout) -> dict[str, list[Any]]:
    """Arrays that each pass makes, by direction."""
    problem = layout.problem
    dtype = "float16" if problem.dtype == "bfloat16" else DTYPES[problem.dtype].storage

    rng = da.random.default_rng(0)

    def made(shape: tuple[int, ...], rows: int) -> Any:
        return rng.random(shape, chunks=(*shape[:2], rows, *shape[3:])).astype(dtype)

    q, k = made(problem.q_shape, layout.chunk), made(problem.k_shape, layout.key_chunk)
    v = made((*problem.k_shape[:3], problem.head_dim_v), layout.key_chunk)
    do = made((*problem.q_shape[:3], problem.head_dim_v), layout.chunk)
    options = {"causal": problem.causal, "window": (problem.window_left, problem.window_right)}
    o, lse = attention(q, k, v, return_lse=True, in_flight=layout.in_flight, **options)
    gradients = attention_backward(do, q, k, v, o, lse, in_flight=layout.in_flight, **options)
    return {"fwd": [o, lse], "bwd": list(gradients)[:3]}


def tasks(arrays: list[Any], prefix: str) -> int:
    """Tasks of attention that Dask would run for these arrays, without its fusion of tasks in a row."""
    keys = list(flatten([x.__dask_keys__() for x in arrays]))
    graph, _ = cull(ensure_dict(HighLevelGraph.merge(*(x.dask for x in arrays))), keys)
    names = [str(key[0]) for key in graph if isinstance(key, tuple)]
    return sum(name.startswith(prefix) for name in names)


@given(layout=layouts())
def test_tasks_are_those_of_the_graphs(layout: Layout) -> None:
    found = graphs(layout)
    backward = tasks(found["bwd"], "attention-backward-")
    with_forward = tasks(found["bwd"], "attention-")
    assert backward == layout.tasks("bwd", lse=True)
    assert with_forward - backward == layout.tasks("fwd", lse=True)
    assert tasks(found["fwd"], "attention-") == layout.tasks("fwd", lse=True)
    assert tasks(found["fwd"][:1], "attention-") == layout.tasks("fwd", lse=False)


AROUND = 400  # bytes of Python's objects in a message, at most


@pytest.mark.parametrize("causal", [False, True])
def test_bytes_are_those_that_two_workers_send(causal: bool) -> None:
    problem = AttentionProblem.of(
        256, num_heads=4, num_kv_heads=2, head_dim=8, dtype="float64", causal=causal
    )
    layout = Layout(problem, 2, 64, 32)
    made = graphs(layout)
    # Idle workers would steal tasks that finish dk and dv, and Dask would fuse tasks that say that a step is
    # done with tasks that load: both move sums once more.
    config = {"distributed.scheduler.work-stealing": False, "optimization.fuse.active": False}
    with local_cluster(config=config) as client:
        kept = []
        for direction in ("fwd", "bwd"):
            kept += client.persist(made[direction])
            distributed.wait(kept)
        moved = [
            moved_by(client, name)
            for name in ("attention-load-keys", "attention-backward-load-keys", "attention-backward-keys")
        ]
    moves = layout.moves("bwd")
    keys, sums = ([size for size in sizes if size] for sizes in zip(*moves, strict=True))
    for sizes, planned in zip(moved, (keys, keys, sums), strict=True):
        assert len(sizes) == len(planned)
        assert 0 <= sum(sizes) - sum(planned) <= AROUND * len(planned)


def moved_by(client: Any, name: str) -> list[int]:
    """Bytes of each result with this name that a worker received."""
    return [
        size
        for log in client.run(received).values()
        for transfer in log
        for key, size in transfer["keys"].items()
        if name in str(key)
    ]
