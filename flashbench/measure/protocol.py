"""What the parent asks of a worker and what it answers: one JSON line each way."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

# Both ends must speak the same: the other end may be another environment's flashbench.
#   2  Hello, Facts and TimeBurst.cold
#   1  the first, without Hello
PROTOCOL_VERSION = 2

# How a request can end; `timeout` is the parent's verdict, the others may come from the child.
Status = Literal["ok", "unsupported", "out_of_memory", "timeout", "crashed"]


class Workload(Protocol):
    """Something to measure, made in the child by a factory such as "package.module:build".

    A factory takes the JSON-able arguments of `Prepare` as keywords.
    """

    def call(self) -> None:
        """Do once what is measured; what it returns to a user must stay alive until the next call."""

    def forget(self) -> None:
        """Drop what the last call returned, as its user would."""

    def check(self) -> dict[str, Any]:
        """How exact the last call was."""

    def describe(self) -> dict[str, Any]:
        """Facts for the record; `output_bytes` is what a call returns to its user (default 0)."""


class Request(msgspec.Struct, tag=True, frozen=True):
    """Base of the requests; `slot` names one of the workloads that live in a worker."""

    slot: str


class Hello(Request, frozen=True):
    """Import modules, so that they are there when it is this process's turn.

    Answers {"protocol": ..., "pid": ...}.
    """

    modules: list[str]


class Facts(Request, frozen=True):
    """Answers `measure.process.describe_process()`: what this process runs with."""


class Prepare(Request, frozen=True):
    """Build a workload and call it once, so that it is compiled. Answers `describe()`."""

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
    """Forget a workload and give its memory back."""


AnyRequest = Hello | Facts | Prepare | TimeBurst | MeasureMemory | Check | Release


class Reply(msgspec.Struct, frozen=True):
    """The answer to one request."""

    status: Status
    reason: str | None = None  # one line, unless status is ok
    data: dict[str, Any] = {}


def build_workload(factory: str, arguments: Mapping[str, Any]) -> Workload:
    """The workload that `factory`, a dotted path "package.module:function", makes of the arguments."""
    module, _, attribute = factory.partition(":")
    workload: Workload = getattr(importlib.import_module(module), attribute)(**arguments)
    return workload
