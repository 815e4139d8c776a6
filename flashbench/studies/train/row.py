"""The results so far of one point of a training study, and its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flashbench.results.record import TrainingProcess, TrainingStep
from flashbench.studies.arms import ArmRow
from flashbench.studies.times import time_record
from flashbench.studies.train.study import TrainDtype, TrainPoint


@dataclass(eq=False, kw_only=True)
class TrainRow(ArmRow):
    """One point of a training study: steps of one model at one context length with one attention."""

    FACTS = ("data", "series", "parameters", "buffer_bytes")
    LAST = ("attention_calls", "attention_shape", "note", "losses")
    GROWTH: ClassVar[float] = 2.0  # of a materialised attention in the context

    point: TrainPoint
    label: str  # name of the model or of its variant
    windows: int
    dtype: TrainDtype = "float32"

    @property
    def place(self) -> tuple[str, int]:
        """The model and the context length."""
        return self.label, self.point.context_length

    @property
    def family(self) -> str:
        return self.point.model

    @property
    def size(self) -> int:
        return self.point.context_length

    @property
    def words(self) -> str:
        return f"{self.label}, context {self.point.context_length}, {self.point.attention}"

    def is_of(self, earlier: TrainingStep) -> bool:
        place = self.label, self.point.attention, self.point.context_length
        return (earlier.model, earlier.attention, earlier.context_length) == place

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
            forward_ns=self.median_of("forward_ns"),
            backward_ns=self.median_of("backward_ns"),
            optimizer_ns=self.median_of("optimizer_ns"),
            attention_forward_ns=self.median_of("attention_forward_ns"),
            attention_backward_ns=self.median_of("attention_backward_ns"),
            attention_share=self.median_of("attention_share"),
            attention_calls=last.get("attention_calls"),
            attention_shape=last.get("attention_shape"),
            peak_bytes=self.peak_bytes,
            note=last.get("note"),
            losses=last.get("losses", []),
            processes=self.processes_as(TrainingProcess),
        )
