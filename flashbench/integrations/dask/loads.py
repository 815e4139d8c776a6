"""Tasks that load chunks into a computation, each when it is wanted and not before.

Dask starts tasks without dependencies as soon as a worker has a thread free. So a whole sequence would be in
memory long before most of it is wanted. Here a chunk's own task becomes a part of ours, which waits for a
step of the computation. A chunk that both passes want is loaded by both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dask.array as da
from dask._task_spec import Alias, DataNode, List, Task, TaskRef, convert_legacy_graph
from dask.array.optimization import optimize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict

from flashbench.integrations.dask import tasks

Key = tuple[Any, ...]


def sources_of(arrays: Iterable[da.Array]) -> dict[Key, Task]:
    """The task that makes a chunk, by the chunk's key: of each chunk that one task makes from data alone.

    Such are chunks of random numbers, of a file, of a delayed function. Others have no entry: chunks in
    memory (persisted arrays), and chunks that several tasks make.
    """
    arrays = list(arrays)
    keys = [key for x in arrays for key in flatten(x.__dask_keys__())]
    merged = HighLevelGraph.merge(*(x.dask for x in arrays))
    graph = convert_legacy_graph(ensure_dict(optimize(merged, keys)))
    found = {}
    for key in keys:
        node = graph.get(key)
        while isinstance(node, Alias):
            node = graph.get(node.target)
        if isinstance(node, Task) and all(
            isinstance(graph.get(need), DataNode) and need in merged for need in node.dependencies
        ):
            found[key] = node
    return found


class Placed(Task):
    """A task that keeps its key, by which `Placement` knows it: Dask does not fuse it with others."""

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        return True


def load(key: Key, chunks: Iterable[Key], sources: Mapping[Key, Task], after: Iterable[Key]) -> Placed:
    """The task `key`: these chunks as a tuple, loaded when the tasks `after` are done."""
    arrays = (sources.get(chunk, TaskRef(chunk)) for chunk in chunks)
    return Placed(key, tasks.together, List(*map(TaskRef, after)), *arrays)
