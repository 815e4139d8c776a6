"""A task of Dask's attention as a workload: one pair of chunks, merged into what was found before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from flashbench.chunks.parts import parts_of
from flashbench.integrations.dask.tasks import Setting, attend, finish, pair_gradients
from flashbench.problem import AttentionProblem, Direction


def build(problem: dict[str, Any], direction: Direction) -> PairWorkload:
    """The task of this problem, whose queries are one chunk and whose keys another."""
    return PairWorkload(msgspec.convert(problem, AttentionProblem), direction)


class PairWorkload:
    """`attend` ("fwd") or `pair_gradients` ("bwd"), with sums of earlier pairs to add to."""

    def __init__(self, problem: AttentionProblem, direction: Direction) -> None:
        places = range(problem.batch), range(problem.seqlen_q), range(problem.seqlen_k)
        parts = parts_of(problem, *places)
        setting = Setting(problem.dtype, problem.scale, None, None)
        q, k, v, do = problem.make_inputs()
        before = attend(setting, parts, None, (q,), (k, v))
        if direction == "fwd":
            self._task: Callable[[], Any] = lambda: attend(setting, parts, before, (q,), (k, v))
        else:
            o, lse = finish(setting, before.o.shape, None, before)
            queries = do, q, o, lse
            sums = pair_gradients(setting, parts, None, None, queries, (k, v))
            self._task = lambda: pair_gradients(setting, parts, *sums, queries, (k, v))
        self._found: Any = None

    def call(self) -> None:
        """Compute the pair once."""
        self._found = self._task()

    def forget(self) -> None:
        """Drop the result."""
        self._found = None

    def check(self) -> dict[str, Any]:
        """{"finite": whether all numbers of the last result are}."""
        return {"finite": all(np.isfinite(x).all() for x in _arrays(self._found))}

    def describe(self) -> dict[str, Any]:
        """{"output_bytes": of the result}."""
        return {"output_bytes": sum(x.nbytes for x in _arrays(self._found))}


def _arrays(found: Any) -> list[Any]:
    return [found] if isinstance(found, np.ndarray) else [x for part in found for x in _arrays(part)]
