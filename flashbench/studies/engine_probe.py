"""The workload that a worker runs to find what an engine can do: load it, ask it, call it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, get_args

import numpy as np

from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import ENGINES, Engine, Forward, Settings, get_engine, path_taken, plugins, refusal
from flashbench.errors import EngineError, MissingError
from flashbench.extras import make_extras
from flashbench.features import FEATURES
from flashbench.problem import AttentionProblem, Direction, Feature
from flashbench.studies.untouched import changed

FACTORY = "flashbench.studies.engine_probe:build"
DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd")
# What an engine may lack, and a small problem that needs it. Only a call shows whether there is an lse.
SHAPES: dict[str, Mapping[str, Any]] = {
    "gqa": {"num_heads": 4, "num_kv_heads": 2},
    "causal": {"causal": True},
    "bottom_right": {"causal": True, "seqlen_k": 24, "causal_alignment": "bottom-right"},
    "top_left": {"causal": True, "seqlen_k": 24, "causal_alignment": "top-left"},
    "head_dim_v": {"head_dim_v": 32},
}
# The same for optional features, whose backward is asked for too, as `window_bwd`.
OPTIONAL: dict[str, Mapping[str, Any]] = {
    name: sizes for feature in get_args(Feature) for name, sizes in FEATURES[feature].probes.items()
}
LSE = "lse"
_SEQLEN = 16
_MANY_QUERIES = 64  # few queries are decoded, by instructions that suit reading memory
# Shapes and features are asked for in this dtype if the engine has it. Some have fewer of them in 16 bits.
_USUAL: Dtype = "float32"


class Probed(NamedTuple):
    """An engine's answers, in its own words."""

    error: str | None  # why it does not load; all else is then empty
    raised: str | None  # the error that it raised when asked or called
    hint: str | None
    missing: bool  # what it runs on is not there
    library: str | None
    version: str | None
    summary: str
    layout: str
    lacks: dict[str, str]  # reason by feature, or by direction and dtype
    notes: dict[str, str]  # by feature: the fallback that ran it
    paths: dict[str, str]  # by dtype: the instructions of its products, if it has a choice of them


def build(engine: str) -> EngineProbe:
    """The probe of the engine of that name."""
    return EngineProbe(engine)


def ability(direction: Direction, dtype: Dtype) -> str:
    """The name of a direction in a dtype: `fwd_float32`."""
    return f"{direction}_{dtype}"


def backward_of(feature: str) -> str:
    """The name of an optional feature's backward: `window_bwd`."""
    return f"{feature}_bwd"


class EngineProbe:
    """A workload whose description is a `Probed`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._engine: Engine | None = None
        self._error: EngineError | None = None
        self._raised: str | None = None
        self._lacks: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        try:
            self._engine = get_engine(name)
        except EngineError as error:
            self._error = error

    def call(self) -> None:
        """Ask about each feature, and call the engine on a small problem for each that it has."""
        if self._engine is None:
            return
        try:
            self._explore(self._engine)
        except Exception as error:  # of whatever kind: the engine raised it
            self._raised = f"{type(error).__name__}: {error}"

    def _explore(self, engine: Engine) -> None:
        for dtype in DTYPES:
            for direction in DIRECTIONS:
                self._ask(ability(direction, dtype), engine, _problem(dtype), direction)
        runs = [dtype for dtype in DTYPES if ability("fwd", dtype) not in self._lacks]
        if not runs:
            names = (*SHAPES, LSE, *OPTIONAL, *map(backward_of, OPTIONAL))
            self._lacks |= dict.fromkeys(names, "it runs no small plain problem of any dtype")
            return
        for dtype in runs:
            path = path_taken(engine, AttentionProblem.of(_MANY_QUERIES, dtype=dtype), "fwd", Settings())
            if path is not None:
                self._paths[dtype] = path
            if self._run(ability("fwd", dtype), engine, _problem(dtype)).lse is None:
                self._lacks.setdefault(LSE, f"its forward in {dtype} gives none")
        usual = _USUAL if _USUAL in runs else runs[0]
        for feature, sizes in {**SHAPES, **OPTIONAL}.items():
            problem = _problem(usual, **sizes)
            if self._ask(feature, engine, problem, "fwd"):
                self._run(feature, engine, problem)
            if feature in OPTIONAL:
                self._ask(backward_of(feature), engine, problem, "bwd")

    def check(self) -> dict[str, Any]:
        """Nothing: `verify` checks exactness."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The fields of `Probed`."""
        library, number = _library(self._name)
        return Probed(
            error=None if self._error is None else str(self._error),
            raised=self._raised,
            hint=None if self._error is None else self._error.hint,
            missing=isinstance(self._error, MissingError),
            library=library,
            version=number,
            summary="" if self._engine is None else self._engine.summary,
            layout="" if self._engine is None else self._engine.layout,
            lacks=self._lacks,
            notes=self._notes,
            paths=self._paths,
        )._asdict()

    def _ask(self, feature: str, engine: Engine, problem: AttentionProblem, direction: Direction) -> bool:
        reason = refusal(engine, problem, direction)
        if reason is not None:
            self._lacks[feature] = reason
        return reason is None

    def _run(self, feature: str, engine: Engine, problem: AttentionProblem) -> Forward:
        inputs, extras = problem.make_inputs(), make_extras(problem)
        forward = engine.forward(problem, Settings(num_threads=1), *inputs[:3], extras=extras)
        if not isinstance(forward.o, np.ndarray):
            raise TypeError(f"forward gave an o of type {type(forward.o).__name__}, not an array")
        spoiled = changed(inputs, problem.make_inputs()) or changed(extras, make_extras(problem))
        if spoiled is not None:
            raise ValueError(f"forward changed its input {spoiled}, which is not to be written to")
        ran = engine.kernel(problem, "fwd")
        if ran is not None and ran.note is not None:
            self._notes[feature] = ran.note
        return forward


def _problem(dtype: Dtype, **sizes: Any) -> AttentionProblem:
    return AttentionProblem.of(_SEQLEN, dtype=dtype, **sizes)


def _library(name: str) -> tuple[str | None, str | None]:
    """The distribution that the engine runs on, and its version, as far as known."""
    if name in ENGINES:
        library = ENGINES[name].library
        try:
            return library, version(library)
        except PackageNotFoundError:
            return library, None
    point = plugins().get(name)
    if point is None or point.dist is None:
        return None, None
    return point.dist.name, point.dist.version
