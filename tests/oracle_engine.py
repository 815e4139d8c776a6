"""The oracle as an engine with every feature. It remembers the arguments of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest

from flashbench.engines import Array, AttentionGradients, Engine, Forward, Layout, Ran, Settings, get_engine
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature
from flashbench.reference import attention_backward_reference, attention_reference


class OracleEngine:
    name = "oracle"
    summary = "for tests"
    layout: Layout = "bhsd"

    def __init__(self) -> None:
        self.features: frozenset[Feature] = frozenset(get_args(Feature))
        self.problem: AttentionProblem
        self.settings: Settings
        self.arrays: tuple[Array, ...]
        self.extras: Extras

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        return None

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        *arrays: Array,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        self.problem, self.settings, self.arrays, self.extras = problem, settings, arrays, extras
        return Forward(*(x.astype(problem.dtype) for x in attention_reference(problem, *arrays, extras)))

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        self.problem, self.settings, self.extras = problem, settings, extras
        self.arrays = (do, q, k, v, forward.o, forward.lse)
        found = attention_backward_reference(problem, do, q, k, v, extras)
        return AttentionGradients(*found, found.dsinks, found.dmask if mask_gradient else None)

    def blocks(self, *_: Any) -> tuple[int, int] | None:
        return None

    def workspace_bytes(self, *_: Any) -> int | None:
        return None

    def kernel(self, *_: Any) -> Ran | None:
        return None


ORACLE = OracleEngine()


@contextmanager
def oracle_installed() -> Iterator[OracleEngine]:
    """`engine="oracle"` for the functions of the package."""

    def find(name: str) -> Engine:
        return ORACLE if name == ORACLE.name else get_engine(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flashbench.arguments.get_engine", find)
        yield ORACLE
