"""What an engine must offer: the Protocols `Outline` and `Engine`, and the types of their calls."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flashbench.dtypes import ACCUMULATORS
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature

Array = NDArray[np.floating]
Layout = Literal["bhsd", "bshd"]


class Settings(NamedTuple):
    """How to run a problem. No setting may change a result beyond rounding."""

    block_q: int | None = None  # None: the engine chooses
    block_k: int | None = None
    num_threads: int | None = None  # None: every core this process may use
    use_simd: bool = True
    # The engine may keep a call's memory for the next call, as an arena does. False while memory is measured.
    keep_scratch: bool = True
    # Which instructions compute the products: a name in kernels/products/paths.py. None: FLASHBENCH_PATH in
    # the environment, else the fastest that this CPU can run.
    path: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Keywords that make these settings again in another process.

        Without a path that is not set: the process may be of an older flashbench, which has no paths.
        """
        given = self._asdict()
        return given if self.path is not None else {name: given[name] for name in given if name != "path"}


class Forward(NamedTuple):
    """o: (batch, num_heads, seqlen_q, head_dim_v); lse: (batch, num_heads, seqlen_q), natural log.

    A row that sees no key has o = 0 and lse = -inf. lse is None for an engine that does not return it.
    """

    o: Array
    lse: Array | None
    saved: Any = None  # what the engine keeps for its own backward, such as P


class _Gradients(NamedTuple):
    dq: Array
    dk: Array
    dv: Array


class AttentionGradients(_Gradients):
    """dq, dk and dv, in the shapes of q, k and v: it unpacks into these. dsinks and dmask have names only.

    dsinks: (num_heads,), None without sinks. dmask: in the mask's own shape, summed along the axes where the
    mask is broadcast; None unless the caller asked for it.
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
    """The kernel that a call ran, of an engine with several kernels."""

    kernel: str  # a word or two, such as "flash" or "math"
    note: str | None = None  # one line, where a reader would not expect this kernel, such as a fallback


class Outline(Protocol):
    """What an engine says of itself before it computes anything."""

    name: str
    # The order in memory, by the letters of (batch, heads, seqlen, head_dim), that it reads without copying.
    # Measurements pass 4-D views of arrays in this order, so that no timed call begins with a transpose.
    layout: Layout
    # The optional features that it has. `refusal` refuses problems with other features before it asks.
    features: frozenset[Feature]

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """Why this problem cannot run here (one line that names the rule and the value), or None.

        `refusal` asks before every call, once it has checked the problem's features. A problem is unsupported
        too if the engine would approximate it, or compute another problem's result.
        """

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """(block_q, block_k) that a call would use; None: the engine has no blocks."""

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Peak bytes of a call beyond its inputs and outputs, computed without a call; None: unknown."""


class Engine(Outline, Protocol):
    """An attention implementation.

    It is asked for float32 and float64 only, unless it has an attribute `dtypes`, a tuple of the names of all
    dtypes that it computes.

    Its inputs are 4-D NumPy arrays: aligned, in this machine's byte order, in the problem's shapes and dtype,
    with any strides. It must not write to them. Its results have the problem's dtype and any strides, and
    must not share memory with the next call's results. It should run on `settings.num_threads` threads, or on
    every core where that is None. Arrays of bfloat16 are bit patterns, uint16. With float16 and bfloat16 lse,
    masks, slopes, sinks and their gradients are float32.
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
        """softmax(problem.scale * q k^T) v; keep=True: also fill `saved` for the backward.

        With problem.causal, query i sees the keys up to i + problem.diagonal_offset; else all keys. `extras`
        holds the arrays of the problem's features.
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
        """Gradients of sum(do * o); mask_gradient=True: also the gradient of the additive mask.

        The caller may pass the same forward several times. `forward` comes from this engine, or holds an o
        and lse from elsewhere: then `saved` is None, and the engine recomputes what it would hold.
        """

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """Which kernel the last call of this problem ran, as observed; None: the engine has one kernel.

        Callers ask after such a call.
        """


@runtime_checkable
class HasPaths(Protocol):
    """An engine whose products can be computed by several kinds of instructions. Others need not be one."""

    def isa_path(self, problem: AttentionProblem, direction: Direction, settings: Settings) -> str | None:
        """The path of a call: a name in kernels/products/paths.py. None: the call has none.

        Raises ConfigError for a path that cannot compute the problem here.
        """


def path_taken(
    engine: Outline, problem: AttentionProblem, direction: Direction, settings: Settings
) -> str | None:
    """The path of a call; None for an engine that has no paths."""
    return engine.isa_path(problem, direction, settings) if isinstance(engine, HasPaths) else None


def refusal(engine: Outline, problem: AttentionProblem, direction: Direction) -> str | None:
    """Why the engine cannot run the problem, in one line, or None."""
    if problem.dtype not in getattr(engine, "dtypes", ACCUMULATORS):
        return f"the engine has no {problem.dtype}"
    lacking = sorted(problem.features - engine.features)
    if lacking:
        return f"the engine has no {', '.join(lacking)}"
    return engine.unsupported(problem, direction)


# What a plug-in must have: every attribute and method of the Protocols.
MEMBERS = tuple(
    member
    for protocol in (Outline, Engine)
    for member in (*protocol.__annotations__, *(name for name in vars(protocol) if name[0] != "_"))
)
