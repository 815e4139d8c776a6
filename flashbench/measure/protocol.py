"""Requests of the parent and replies of a worker: one JSON line each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

# Both ends must speak the same version: the other end may be another environment's flashbench.
#   2  Hello, Facts and TimeBurst.cold
#   1  the first, without Hello
PROTOCOL_VERSION = 2

# How a request can end. Only the parent says `timeout`; the others may come from the child.
Status = Literal["ok", "unsupported", "out_of_memory", "timeout", "crashed"]


class Workload(Protocol):
    """Something to measure. A factory such as "package.module:build" makes it in the child.

    The factory takes the arguments of `Prepare`, which JSON can hold, as keywords.
    """

    def call(self) -> None:
        """Do once what is measured. The outputs must stay alive until the next call."""

    def forget(self) -> None:
        """Drop the outputs of the last call, as a user would."""

    def check(self) -> dict[str, Any]:
        """How exact the last call was."""

    def describe(self) -> dict[str, Any]:
        """Facts for the record; `output_bytes` is the size of a call's outputs (default 0)."""


class Request(msgspec.Struct, tag=True, frozen=True):
    """Base of the requests; `slot` names one of the worker's workloads."""

    slot: str


class Hello(Request, frozen=True):
    """Import modules, so that they are loaded before this process's turn.

    Answers {"protocol": ..., "pid": ...}.
    """

    modules: list[str]


class Facts(Request, frozen=True):
    """Answers `measure.process.describe_process()`: what this process runs with."""


class Prepare(Request, frozen=True):
    """Build a workload and call it once, which compiles it. Answers `describe()`."""

    factory: str
    arguments: dict[str, Any]


class TimeBurst(Request, frozen=True):
    """Time calls in one burst (see `flashbench.measure.timing.burst`). Answers {"samples_ns": [...]}."""

    repeats: int
    at_least_ns: int
    at_most: int
    cold: bool = False


class MeasureMemory(Request, frozen=True):
    """Measure one call (see `flashbench.measure.memory.measure_memory`)."""


class Check(Request, frozen=True):
    """Answers `check()`."""


class Release(Request, frozen=True):
    """Drop a workload and free its memory."""


AnyRequest = Hello | Facts | Prepare | TimeBurst | MeasureMemory | Check | Release


class Reply(msgspec.Struct, frozen=True):
    """The answer to one request."""

    status: Status
    reason: str | None = None  # one line, unless status is ok
    data: dict[str, Any] = {}


def build_workload(factory: str, arguments: Mapping[str, Any]) -> Workload:
    """Call `factory`, a path "package.module:function", with the arguments."""
    module, _, attribute = factory.partition(":")
    workload: Workload = getattr(importlib.import_module(module), attribute)(**arguments)
    return workload
