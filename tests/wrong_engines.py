"""Engines that are wrong in one thing each, as plug-ins, to see that `verify` catches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flashbench.engines import (
    Array,
    AttentionGradients,
    Engine,
    Forward,
    Layout,
    Ran,
    Settings,
    get_engine,
)
from flashbench.engines.numpy import NumpyEngine
from flashbench.problem import AttentionProblem, Direction


class Right:
    """Flash attention by another name: what is wrong with the others is theirs alone."""

    summary = "for tests"
    layout: Layout = "bhsd"

    def __init__(self) -> None:
        self.name = type(self).__name__
        self._flash: Engine = get_engine("flash")
        self.features = self._flash.features

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        return None

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        keep: bool = False,
        **options: Any,
    ) -> Forward:
        return self._flash.forward(problem, settings, q, k, v, keep=keep, **options)

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        **options: Any,
    ) -> AttentionGradients:
        return self._flash.backward(problem, settings, do, q, k, v, forward, **options)

    def blocks(self, *_: Any) -> tuple[int, int] | None:
        return None

    def workspace_bytes(self, *_: Any) -> int | None:
        return None

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        return None


class WrongForward(Right):
    """Off in one number by what the documented tolerance would let pass; its gradients are right."""

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        if not keep:
            found.o[0, 0, -1, -1] += 3e-11 if found.o.dtype == np.float64 else 3e-4
        return found


class WrongLse(Right):
    """In base 2."""

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        return found if keep else found._replace(lse=found.lse / np.log(2).astype(found.lse.dtype))


class WrongDk(Right):
    """Loses the last key's gradient."""

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        gradients = super().backward(*arguments, **options)
        gradients.dk[:, :, -1] = 0.0
        return gradients


class LeakyNan(NumpyEngine):
    """Multiplies what is masked by zero."""


class WrongOnlyWhenRecomputing(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        return super().forward(*arguments, keep=keep, **options)._replace(saved=keep or None)

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        gradients = super().backward(*arguments, **options)
        return gradients if arguments[-1].saved else gradients._replace(dq=-gradients.dq)


class Raising(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        raise RuntimeError("the first line\nand the second")


class Untidy(Right):
    """Scribbles on an input."""

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        gradients = super().backward(*arguments, **options)
        arguments[2][0, 0, 0, 0] = 7.0
        return gradients


class WrongDtype(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        return found._replace(o=found.o.astype(np.float64))


class WrongType(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        return found._replace(lse=found.lse.tolist())


class Choosy(Right):
    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        return f"no backward of {problem.seqlen_q}" if direction == "bwd" else None


NAMES = [
    name
    for name, value in list(globals().items())
    if isinstance(value, type) and value.__module__ == __name__
]


def install(directory: Path) -> None:
    """Make a plug-in package in the directory that offers these engines by entry points."""
    metadata = directory / "wrong_engines-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-engines\nVersion: 1.0\n")
    lines = "".join(f"{name} = {__name__}:{name}\n" for name in NAMES)
    (metadata / "entry_points.txt").write_text(f"[flashbench.engines]\n{lines}")
