"""The engines: what every engine offers, and the one table that names them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flashbench.errors import EngineError
from flashbench.problem import AttentionProblem, Direction

Array = NDArray[np.floating]


class Settings(NamedTuple):
    """How to run, as opposed to what to compute: none of these may change a result beyond rounding."""

    block_q: int | None = None  # None: the engine chooses
    block_k: int | None = None
    num_threads: int | None = None  # None: every core this process may use
    use_simd: bool = True


class Forward(NamedTuple):
    """o: (batch, num_heads, seqlen_q, head_dim_v); lse: (batch, num_heads, seqlen_q), natural log."""

    o: Array
    lse: Array
    saved: Any = None  # what the engine keeps for its own backward, for instance P


class AttentionGradients(NamedTuple):
    """Gradients in the shapes of q, k and v."""

    dq: Array
    dk: Array
    dv: Array


class Engine(Protocol):
    """An attention implementation. Arrays are validated, 4-D and of the problem's shapes and dtype."""

    name: str
    summary: str  # one line for `flashbench profile --help` and error messages

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """Why this problem cannot run here (one line), or None."""

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        keep: bool = False,
    ) -> Forward:
        """Attention; with keep=True also what backward wants to find in `saved`."""

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
    ) -> AttentionGradients:
        """Gradients of sum(do * o). `forward.saved` may be None: then it must be recomputed."""

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """(block_q, block_k) that a call would use; None when the engine has no blocks."""

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Peak bytes beyond inputs and outputs, computed without running; None: unknown."""


# name -> (module, attribute, extra that installs its library). One line adds an engine.
ENGINES: Mapping[str, tuple[str, str, str | None]] = {
    "flash": ("flashbench.engines.flash", "FlashEngine", None),
    "standard": ("flashbench.engines.standard", "StandardEngine", None),
    "numpy": ("flashbench.engines.numpy", "NumpyEngine", None),
    "torch-flash": ("flashbench.engines.torch", "TorchFlashEngine", "torch"),
}
ENTRY_POINT_GROUP = "flashbench.engines"


def engine_names() -> list[str]:
    """Built-in names first, then those that installed packages add by entry point."""
    plugins = sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - set(ENGINES))
    return [*ENGINES, *plugins]


def get_engine(name: str) -> Engine:
    """The engine of that name.

    Raises EngineError when the name is unknown, its library is missing or its plug-in does not load.
    """
    if name in ENGINES:
        module, attribute, extra = ENGINES[name]
        try:
            engine: Engine = getattr(importlib.import_module(module), attribute)()
        except ModuleNotFoundError as error:
            if extra is None or (error.name or "").startswith("flashbench"):
                raise
            raise EngineError(
                f"engine {name!r} needs the package {error.name!r}, which is not installed",
                hint=f"pip install 'flashbench[{extra}]'",
            ) from error
        return engine
    points = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name]
    if not points:
        raise EngineError(f"unknown engine {name!r}; known: {', '.join(engine_names())}")
    try:
        plugin: Engine = points[0].load()()
    except Exception as error:
        raise EngineError(
            f"engine {name!r} of {points[0].value} does not load: {type(error).__name__}: {error}"
        ) from error
    return plugin
