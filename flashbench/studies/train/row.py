"""The results so far of one point of a training study, and its record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec

from flashbench.measure.worker import WorkerFailure
from flashbench.results.record import Status, TrainingProcess, TrainingStep
from flashbench.studies.times import time_record
from flashbench.studies.train.study import TrainDtype, TrainPoint

# Fields of the record that come from a workload's description, and from its last check.
_FACTS = ("data", "series", "parameters", "buffer_bytes")
_LAST = ("attention_calls", "attention_shape", "note", "losses")


@dataclass(eq=False)
class TrainRow:
    """One point. Measurements fill it in step by step; `record` makes a `TrainingStep` at any time."""

    point: TrainPoint
    label: str  # name of the model or of its variant
    windows: int
    threads: int
    dtype: TrainDtype = "float32"
    status: Status = "ok"
    reason: str | None = None
    tried: bool = False
    facts: dict[str, Any] = field(default_factory=dict)  # the workload's description
    samples: list[list[int]] = field(default_factory=list)  # nanoseconds of each step, one list per process
    checks: list[dict[str, Any]] = field(default_factory=list)  # phases, losses, shares; one per process
    peak_bytes: int | None = None
    throttled_periods: int = 0  # periods in which a CPU quota stopped the timed process

    @property
    def slot(self) -> str:
        """The point's name in a worker."""
        return f"{self.point.model} {self.point.context_length}"

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

    def restore(self, earlier: TrainingStep) -> None:
        """Continue from the record of an earlier run of this point. Losses are compared again at the end."""
        samples = [] if earlier.time is None else [list(process) for process in earlier.time.samples_ns]
        if len(samples) != len(earlier.processes):
            return
        self.tried = bool(samples) or earlier.peak_bytes is not None
        self.samples, self.peak_bytes = samples, earlier.peak_bytes
        known = msgspec.to_builtins(earlier)
        self.facts = {name: known[name] for name in _FACTS if known[name] is not None}
        last = {name: known[name] for name in _LAST if known[name] is not None}
        self.checks = [
            last | {name: value for name, value in process.items() if value is not None}
            for process in known["processes"]
        ]

    def record(self) -> TrainingStep:
        """The record of the results so far."""
        last = self.checks[-1] if self.checks else {}
        return TrainingStep(
            model=self.label,
            attention=self.point.attention,
            context_length=self.point.context_length,
            dtype=self.dtype,
            windows=self.windows,
            status=self.status,
            reason=self.reason,
            data=self.facts.get("data"),
            series=self.facts.get("series"),
            parameters=self.facts.get("parameters"),
            buffer_bytes=self.facts.get("buffer_bytes"),
            threads=self.threads,
            time=time_record(self.samples),
            forward_ns=self._median("forward_ns"),
            backward_ns=self._median("backward_ns"),
            optimizer_ns=self._median("optimizer_ns"),
            attention_forward_ns=self._median("attention_forward_ns"),
            attention_backward_ns=self._median("attention_backward_ns"),
            attention_share=self._median("attention_share"),
            attention_calls=last.get("attention_calls"),
            attention_shape=last.get("attention_shape"),
            peak_bytes=self.peak_bytes,
            note=last.get("note"),
            losses=last.get("losses", []),
            processes=[_process(check) for check in self.checks],
        )

    def _median(self, name: str) -> float | None:
        found = [check[name] for check in self.checks if name in check]
        return median(found) if found else None


def _process(check: dict[str, Any]) -> TrainingProcess:
    known = {name: check[name] for name in TrainingProcess.__struct_fields__ if name in check}
    return TrainingProcess(**known)
