"""The engines: what each can do, and why some cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Literal

import msgspec

from flashbench.engines import ENGINES, ENTRY_POINT_GROUP, check_engine_name, engine_names, plugins
from flashbench.errors import EngineError
from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.results.record import Record
from flashbench.studies.engine_probe import FACTORY, Probed
from flashbench.system.cores import available_cores

ALL = "all"  # as the name of an engine: every one that is ready
PROBE_TIMEOUT_S = 180.0  # a first call compiles a kernel for each dtype: half a minute on a busy machine

State = Literal["ready", "not installed", "broken"]


class EngineFacts(Record, frozen=True):
    """One engine, as found in a process of its own."""

    name: str
    state: State
    reason: str | None = None  # one line; None if ready
    loads: bool = True  # False: it raises an error or crashes its process
    hint: str | None = None  # what to do about it, if known
    library: str | None = None  # the distribution that it runs on or comes from
    version: str | None = None
    summary: str = ""
    layout: str = ""  # the memory order that it reads without copying
    # By what it may lack: a name of `engine_probe.SHAPES` or `OPTIONAL`, or an `engine_probe.ability`:
    lacks: dict[str, str] = msgspec.field(default_factory=dict)  # why it cannot
    notes: dict[str, str] = msgspec.field(default_factory=dict)  # the fallback that it used
    paths: dict[str, str] = msgspec.field(default_factory=dict)  # by dtype: the path of its products

    def can(self, feature: str) -> bool:
        """Whether it is ready and did not refuse."""
        return self.state == "ready" and feature not in self.lacks


def list_engines(
    names: Sequence[str] | None = None, *, timeout_s: float = PROBE_TIMEOUT_S
) -> list[EngineFacts]:
    """The engines of these names, by default all, built-in first. Each is probed in a process of its own.

    One that crashes, exits, hangs or is no engine is `broken`, with a reason.
    """
    wanted = engine_names() if names is None else names
    with ThreadPoolExecutor(available_cores()) as pool:
        found = list(pool.map(lambda name: probe(name, timeout_s=timeout_s), wanted))
    return found if names is not None else [*found, *_hidden()]


def is_installed(name: str) -> bool:
    """Whether the library of a built-in engine is installed, without loading it."""
    try:
        version(ENGINES[name].library)
    except PackageNotFoundError:
        return False
    return True


def probe(name: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> EngineFacts:
    """One engine."""
    try:
        with Worker(1, timeout_s=timeout_s) as worker:
            probed = Probed(**worker.prepare(name, FACTORY, {"engine": name}))
    except WorkerFailure as failure:
        return EngineFacts(name=name, state="broken", reason=failure.reason, loads=False)
    reason = probed.error or probed.raised
    state: State = "ready" if reason is None else "broken"
    if probed.missing and name in ENGINES:
        state = "not installed"
    return EngineFacts(
        name=name,
        state=state,
        reason=reason,
        loads=probed.error is None,
        hint=probed.hint,
        library=probed.library,
        version=probed.version,
        summary=probed.summary,
        layout=probed.layout,
        lacks=probed.lacks,
        notes=probed.notes,
        paths=probed.paths,
    )


def resolve_engines(
    names: Sequence[str], *, timeout_s: float = PROBE_TIMEOUT_S
) -> tuple[list[str], list[str]]:
    """The engines that these names stand for, and a line for each that `all` leaves out.

    `all` is every engine that is ready and not named too, built-in first. An engine of another package is
    probed before this process loads it. Raises EngineError if it does not load, crashes or does not answer in
    time, and before any probe if a name is unknown. An error that the engine itself raises is left to the
    study.
    """
    for name in names:
        if name != ALL:
            check_engine_name(name)
    resolved: list[str] = []
    left_out = []
    others = plugins()
    for name in names:
        if name == ALL:
            for facts in list_engines(timeout_s=timeout_s):
                if facts.state != "ready":
                    left_out.append(f"{facts.name} is left out: {why_not(facts)}")
                elif facts.name not in (*names, *resolved):
                    resolved.append(facts.name)
            continue
        if name in others and not (facts := probe(name, timeout_s=timeout_s)).loads:
            raise EngineError(
                f"engine {name!r} of {others[name].value} is broken: {facts.reason}", hint=facts.hint
            )
        resolved.append(name)
    return resolved, left_out


def why_not(facts: EngineFacts) -> str:
    """One line for an engine that is not ready: what is wrong, or how to install it."""
    if facts.state == "not installed" and facts.hint is not None:
        return f"not installed: {facts.hint}"
    return f"{facts.state}: {facts.reason}"


def _hidden() -> list[EngineFacts]:
    """Plug-ins hidden by a built-in engine of the same name."""
    return [
        EngineFacts(
            name=point.name,
            state="broken",
            reason=f"{point.value} takes the name of a built-in engine",
            library=None if point.dist is None else point.dist.name,
            version=None if point.dist is None else point.dist.version,
        )
        for point in entry_points(group=ENTRY_POINT_GROUP)
        if point.name in ENGINES
    ]
