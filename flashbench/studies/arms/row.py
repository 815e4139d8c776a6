"""The results so far of one model and work with one attention."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from flashbench.measure.worker import WorkerFailure
from flashbench.results.record import InferenceTest, Record, Status, TrainingStep

RecordType = TypeVar("RecordType", bound=Record)


class Point(Protocol):
    """What a study asks for in one row."""

    @property
    def attention(self) -> str: ...


@dataclass(eq=False, kw_only=True)
class ArmRow(ABC):
    """One point. Measurements fill it in step by step; `record` makes its record at any time."""

    # Fields of the record that come from the workload's description, and from its last check.
    FACTS: ClassVar[tuple[str, ...]]
    LAST: ClassVar[tuple[str, ...]]
    GROWTH: ClassVar[float]  # memory grows with this power of the size, at most

    point: Point
    threads: int
    status: Status = "ok"
    reason: str | None = None
    tried: bool = False
    facts: dict[str, Any] = field(default_factory=dict)  # the workload's description
    samples: list[list[int]] = field(default_factory=list)  # nanoseconds of each call, one list per process
    checks: list[dict[str, Any]] = field(default_factory=list)  # what the workload's check told, per process
    peak_bytes: int | None = None
    throttled_periods: int = 0  # periods in which a CPU quota stopped the timed process

    @property
    @abstractmethod
    def place(self) -> Hashable:
        """What the arms have in common."""

    @property
    @abstractmethod
    def family(self) -> Hashable:
        """What rows of one arm have in common that differ in size only."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Time and peak memory grow with it, at least linearly."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The point, for progress."""

    @abstractmethod
    def is_of(self, earlier: Any) -> bool:
        """Whether a record is of this point."""

    @abstractmethod
    def record(self) -> TrainingStep | InferenceTest:
        """The record of the results so far."""

    @property
    def slot(self) -> str:
        """The point's name in a worker."""
        return str(self.place)

    @property
    def fixed_bytes(self) -> int:
        """Memory that does not grow with the size, such as weights."""
        return 0

    @property
    def growing_bytes(self) -> int:
        """Memory that grows with the size; 0 if it is not known yet."""
        return self.peak_bytes or 0

    @property
    def can_run(self) -> bool:
        return self.status == "ok"

    @contextlib.contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """A worker's failure in the body becomes this row's status. Times of a failed row are dropped."""
        try:
            yield
        except WorkerFailure as failure:
            self.status, self.reason = failure.status, failure.reason
            self.samples.clear()
            self.checks.clear()

    def restore(self, earlier: TrainingStep | InferenceTest) -> None:
        """Continue from the record of an earlier run of this point. Results are compared again at the end."""
        samples = [] if earlier.time is None else [list(process) for process in earlier.time.samples_ns]
        if len(samples) != len(earlier.processes):
            return
        self.tried = bool(samples) or earlier.peak_bytes is not None
        self.samples, self.peak_bytes = samples, earlier.peak_bytes
        known = {name: value for name, value in msgspec.to_builtins(earlier).items() if value is not None}
        self.facts = {name: known[name] for name in self.FACTS if name in known}
        last = {name: known[name] for name in self.LAST if name in known}
        self.checks = [
            last | {name: value for name, value in process.items() if value is not None}
            for process in known["processes"]
        ]

    def median_of(self, name: str) -> float | None:
        """Of the processes that told this number."""
        found = [check[name] for check in self.checks if name in check]
        return median(found) if found else None

    def processes_as(self, kind: type[RecordType]) -> list[RecordType]:
        """The checks as records."""
        names = kind.__struct_fields__
        return [kind(**{name: check[name] for name in names if name in check}) for check in self.checks]
