"""The oracle as an engine with every feature, and as `engine="oracle"`, which records its last call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args
from unittest.mock import patch

from flashbench.dtypes import NARROWEST_FIRST, entry_of_output
from flashbench.engines import Array, AttentionGradients, Engine, Forward, Layout, Ran, Settings, get_engine
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature
from flashbench.reference import attention_backward_reference, attention_reference


class Oracle:
    """Outputs and gradients are the oracle's, in the problem's dtype."""

    summary = "for tests"
    layout: Layout = "bhsd"
    features: frozenset[Feature] = frozenset(get_args(Feature))
    dtypes = NARROWEST_FIRST

    @property
    def name(self) -> str:
        return type(self).__name__

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
        o, lse = attention_reference(problem, *arrays, extras)
        return Forward(_made(problem, "o", o), _made(problem, "lse", lse))

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
        found = attention_backward_reference(problem, do, q, k, v, extras)
        named = {
            **dict(zip(("dq", "dk", "dv"), found, strict=True)),
            "dsinks": found.dsinks,
            "dmask": found.dmask if mask_gradient else None,
        }
        return AttentionGradients(
            *(None if x is None else _made(problem, name, x) for name, x in named.items())
        )

    def blocks(self, *_: Any) -> tuple[int, int] | None:
        return None

    def workspace_bytes(self, *_: Any) -> int | None:
        return None

    def kernel(self, *_: Any) -> Ran | None:
        return None


class OracleEngine(Oracle):
    """Keeps the arguments of its last call; `arrays` of a backward end with o and lse."""

    name = "oracle"
    problem: AttentionProblem
    settings: Settings
    arrays: tuple[Array | None, ...]
    extras: Extras

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        *arrays: Array,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        self.problem, self.settings, self.arrays, self.extras = problem, settings, arrays, extras
        return super().forward(problem, settings, *arrays, extras=extras, keep=keep)

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        *arrays: Any,
        extras: Extras = NO_EXTRAS,
        **options: Any,
    ) -> AttentionGradients:
        *inputs, forward = arrays
        self.problem, self.settings, self.extras = problem, settings, extras
        self.arrays = (*inputs, forward.o, forward.lse)
        return super().backward(problem, settings, *arrays, extras=extras, **options)


ORACLE = OracleEngine()


def _made(problem: AttentionProblem, name: str, x: Array) -> Array:
    """An output as an engine gives it."""
    return entry_of_output(problem.dtype, name).make(x)


@contextmanager
def oracle_installed() -> Iterator[OracleEngine]:
    """`engine="oracle"` for the functions of the package."""

    def find(name: str) -> Engine:
        return ORACLE if name == ORACLE.name else get_engine(name)

    with patch("flashbench.arguments.get_engine", find):
        yield ORACLE
