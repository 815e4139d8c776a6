"""The engines: what every engine offers, and the one table that names them.

Another package adds an engine by an entry point, whose name is the engine's and whose object is a class, or
a function, that makes an `Engine` when called without arguments:

    [project.entry-points."flashbench.engines"]
    mine = "my_package.my_module:MyEngine"

`flashbench engines` then lists it, every command takes it as `--engine mine`, and `flashbench verify
--engine mine` says whether it is exact. The Protocol `Engine` below is all that it has to offer; no base
class is needed. tests/example_plugin of flashbench's repository is such a package, to begin from.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from flashbench.errors import EngineError
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature

Array = NDArray[np.floating]
Layout = Literal["bhsd", "bshd"]


class Settings(NamedTuple):
    """How to run, as opposed to what to compute: none of these may change a result beyond rounding."""

    block_q: int | None = None  # None: the engine chooses
    block_k: int | None = None
    num_threads: int | None = None  # None: every core this process may use
    use_simd: bool = True
    keep_scratch: bool = (
        True  # may keep a call's memory for the next, as an arena does; not while it is measured
    )


class Forward(NamedTuple):
    """o: (batch, num_heads, seqlen_q, head_dim_v); lse: (batch, num_heads, seqlen_q), natural log.

    A row that sees no key has o = 0 and lse = -inf. lse is None where an engine does not give it.
    """

    o: Array
    lse: Array | None
    saved: Any = None  # what the engine keeps for its own backward, for instance P


class _Gradients(NamedTuple):
    dq: Array
    dk: Array
    dv: Array


class AttentionGradients(_Gradients):
    """dq, dk and dv, in the shapes of q, k and v: what it unpacks into; and two more by name.

    dsinks: (num_heads,), None without sinks. dmask: in the mask's own shape, which is added up along the
    axes that it was broadcast along; None where it was not asked for.
    """

    dsinks: Array | None = None
    dmask: Array | None = None

    def __new__(
        cls, dq: Array, dk: Array, dv: Array, dsinks: Array | None = None, dmask: Array | None = None
    ) -> AttentionGradients:
        made = super().__new__(cls, dq, dk, dv)
        made.dsinks, made.dmask = dsinks, dmask
        return made


class Ran(NamedTuple):
    """What a call really ran, where an engine has several kernels."""

    kernel: str  # a word or two, such as "flash" or "math"
    note: str | None = None  # one line, where it is not what one would expect, such as a fallback


class Outline(Protocol):
    """What is known of an engine before anything is computed."""

    name: str
    # The order in memory, by the letters of (batch, heads, seqlen, head_dim), that it reads without copying:
    # measurements give it 4-D views of arrays in that order, so that no engine is timed transposing.
    layout: Layout
    # The optional features that it has; problems with others are never shown to it.
    features: frozenset[Feature]

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """Why this problem cannot run here (one line that names the rule and the value), or None.

        It is asked before every call, by `refusal`, if the engine has all of the problem's features; an
        approximation is unsupported, and so is another problem's result.
        """

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """(block_q, block_k) that a call would use; None when the engine has no blocks."""

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Peak bytes beyond inputs and outputs, computed without running; None: unknown."""


class Engine(Outline, Protocol):
    """An attention implementation.

    Arrays that it is given are NumPy's, aligned, in this machine's byte order, 4-D, of the problem's shapes
    and dtype, of any strides, and not to be written to. What it returns may be of any strides, in the
    problem's dtype, and must not share memory with the next call's. It should run on
    `settings.num_threads` threads, or on every core where that is None.
    """

    summary: str  # one line for `flashbench engines`

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """softmax(problem.scale * q k^T) v; with keep=True also what backward wants to find in `saved`.

        Query i sees the keys up to i + problem.diagonal_offset when problem.causal, else all. `extras` holds
        the arrays of the problem's features.
        """

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
        """Gradients of sum(do * o), for the same forward as often as it is called; with mask_gradient=True
        also by the additive mask.

        `forward` is this engine's own, or an o and lse from anywhere: then its `saved` is None, and what
        it would hold must be recomputed.
        """

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """Which of its kernels the last call of this problem ran, as observed; None: it has only one.

        Asked after such a call.
        """


def refusal(engine: Outline, problem: AttentionProblem, direction: Direction) -> str | None:
    """Why the engine cannot run the problem, in one line, or None."""
    lacking = sorted(problem.features - engine.features)
    if lacking:
        return f"the engine has no {', '.join(lacking)}"
    return engine.unsupported(problem, direction)


# What a plug-in must have, said once: in the protocols.
MEMBERS = tuple(
    member
    for protocol in (Outline, Engine)
    for member in (*protocol.__annotations__, *(name for name in vars(protocol) if name[0] != "_"))
)


class BuiltIn(NamedTuple):
    """Where an engine of ours is, and what it runs on."""

    module: str
    attribute: str
    library: str  # the distribution whose version is the engine's
    extra: str | None = None  # what installs it; None: always there


# One line adds an engine.
ENGINES: Mapping[str, BuiltIn] = {
    "flash": BuiltIn("flashbench.engines.flash.engine", "FlashEngine", "numba"),
    "standard": BuiltIn("flashbench.engines.standard", "StandardEngine", "numba"),
    "numpy": BuiltIn("flashbench.engines.peers.numpy", "NumpyEngine", "numpy"),
    "torch-flash": BuiltIn("flashbench.engines.peers.torch", "TorchFlashEngine", "torch", "torch"),
    "torch-math": BuiltIn("flashbench.engines.peers.torch_math", "TorchMathEngine", "torch", "torch"),
    "zentorch": BuiltIn("flashbench.engines.peers.zentorch", "ZentorchEngine", "zentorch", "zentorch"),
    "onnxruntime": BuiltIn(
        "flashbench.engines.peers.onnxruntime", "OnnxEngine", "onnxruntime", "onnxruntime"
    ),
}
ENTRY_POINT_GROUP = "flashbench.engines"


def engine_names() -> list[str]:
    """Built-in names first, then those that installed packages add by entry point."""
    return [*ENGINES, *sorted(plugins())]


def plugins() -> dict[str, EntryPoint]:
    """Entry points of other packages' engines by name, found without importing them.

    A name that two packages have is the first one's; one of ours is not theirs to take.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in ENGINES:
            found.setdefault(point.name, point)
    return found


def check_engine_name(name: str) -> None:
    """Raise EngineError when no engine is called so here; nothing is loaded."""
    known = engine_names()
    if name not in known:
        raise EngineError(f"unknown engine {name!r}; known: {', '.join(known)}")


def get_outline(name: str) -> Outline:
    """What is known of the engine of that name where it is not to run: of a peer without loading its library,
    which may take seconds, start threads, and bind the calling thread to a core.

    Raises EngineError as `get_engine` does, but for libraries that are there and do not load.
    """
    from flashbench.engines.peers import PEERS  # here: it needs what is defined above

    peer = PEERS.get(name)
    if peer is None:
        return get_engine(name)
    for package in peer.packages:
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # a directory of that name is no package
            raise _missing(name, package)
    return peer


def get_engine(name: str) -> Engine:
    """The engine of that name.

    Raises EngineError when the name is unknown, its library is missing or does not load, or its plug-in
    does not load or is no engine.
    """
    if name in ENGINES:
        return _built_in(name)
    check_engine_name(name)
    point = plugins()[name]
    where = f"engine {name!r} of {point.value}"
    try:
        plugin: Engine = point.load()()
    except (Exception, SystemExit) as error:
        raise EngineError(f"{where} does not load: {type(error).__name__}: {error}") from error
    lacking = [member for member in MEMBERS if not hasattr(plugin, member)]
    if lacking:
        raise EngineError(
            f"{where} is no engine: it lacks {', '.join(lacking)}",
            hint="what an engine must have is in flashbench/engines/__init__.py",
        )
    if plugin.layout not in get_args(Layout):
        known = ", ".join(get_args(Layout))
        raise EngineError(f"{where} has the unknown layout {plugin.layout!r}; known: {known}")
    return plugin


@cache  # one of each: an engine may keep what is dear to make, such as a session
def _built_in(name: str) -> Engine:
    module, attribute, library, extra = ENGINES[name]
    try:
        engine: Engine = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("flashbench"):
            raise
        raise _missing(name, error.name or library) from error
    except (ImportError, OSError) as error:  # it is installed, but not for this machine
        if extra is None:
            raise
        raise EngineError(f"engine {name!r} does not load: {library}: {error}") from error
    return engine


def _missing(name: str, package: str) -> EngineError:
    return EngineError(
        f"engine {name!r} needs the package {package!r}, which is not installed",
        hint=f"pip install 'flashbench[{ENGINES[name].extra}]'",
    )
