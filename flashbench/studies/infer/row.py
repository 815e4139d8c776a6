"""The results so far of one point of a study of inference, and its record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec

from flashbench.measure.worker import WorkerFailure
from flashbench.results.record import InferenceProcess, InferenceTest, Status
from flashbench.studies.infer.study import InferPoint
from flashbench.studies.times import time_record

# Fields of the record that come from a workload's description.
_FACTS = ("parameters", "weight_bytes", "cache_bytes", "compared_tokens", "compared_leads")


@dataclass(eq=False)
class InferRow:
    """One point. Measurements fill it in step by step; `record` makes an `InferenceTest` at any time."""

    point: InferPoint
    batch: int
    threads: int
    status: Status = "ok"
    reason: str | None = None
    tried: bool = False
    facts: dict[str, Any] = field(default_factory=dict)  # the workload's description
    samples: list[list[int]] = field(default_factory=list)  # nanoseconds of each test, one list per process
    checks: list[dict[str, Any]] = field(default_factory=list)  # attention's time; one per process
    peak_bytes: int | None = None
    throttled_periods: int = 0  # periods in which a CPU quota stopped the timed process

    @property
    def slot(self) -> str:
        """The point's name in a worker."""
        return " ".join(map(str, self.point.place))

    @property
    def label(self) -> str:
        """The point in words."""
        model, dtype, test, tokens, depth, attention = self.point
        return f"{model} {dtype}, {test} {tokens} at {depth}, {attention}"

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

    def restore(self, earlier: InferenceTest) -> None:
        """Continue from the record of an earlier run of this point. Tokens are compared again at the end."""
        samples = [] if earlier.time is None else [list(process) for process in earlier.time.samples_ns]
        if len(samples) != len(earlier.processes):
            return
        self.tried = bool(samples) or earlier.peak_bytes is not None
        self.samples, self.peak_bytes = samples, earlier.peak_bytes
        known = msgspec.to_builtins(earlier)
        self.facts = {name: known[name] for name in _FACTS if known[name] is not None}
        self.checks = [
            {name: value for name, value in process.items() if value is not None} | {"note": earlier.note}
            for process in known["processes"]
        ]

    def record(self) -> InferenceTest:
        """The record of the results so far."""
        model, dtype, test, tokens, depth, attention = self.point
        return InferenceTest(
            model=model,
            dtype=dtype,
            test=test,
            tokens=tokens,
            depth=depth,
            batch=self.batch,
            attention=attention,
            threads=self.threads,
            status=self.status,
            reason=self.reason,
            time=time_record(self.samples),
            attention_ns=self._median("attention_ns"),
            attention_share=self._median("attention_share"),
            peak_bytes=self.peak_bytes,
            note=self.checks[-1].get("note") if self.checks else None,
            processes=[_process(check) for check in self.checks],
            **{name: self.facts[name] for name in _FACTS if name in self.facts},
        )

    def _median(self, name: str) -> float | None:
        found = [check[name] for check in self.checks if name in check]
        return median(found) if found else None


def _process(check: dict[str, Any]) -> InferenceProcess:
    known = {name: check[name] for name in InferenceProcess.__struct_fields__ if name in check}
    return InferenceProcess(**known)
