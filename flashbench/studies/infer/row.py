"""The results so far of one point of a study of inference, and its record."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from flashbench.results.record import InferenceProcess, InferenceTest
from flashbench.studies.arms import ArmRow
from flashbench.studies.infer.study import InferPoint
from flashbench.studies.times import time_record


@dataclass(eq=False, kw_only=True)
class InferRow(ArmRow):
    """One point of a study of inference: one test of one model with one attention."""

    FACTS = ("parameters", "weight_bytes", "cache_bytes", "compared_tokens", "compared_leads")
    LAST = ("note",)
    GROWTH: ClassVar[float] = 1.0  # the number of new tokens is the same at each depth

    point: InferPoint
    batch: int

    @property
    def place(self) -> Hashable:
        return self.point.place

    @property
    def family(self) -> Hashable:
        """The test at every depth."""
        return self.point._replace(depth=0)

    @property
    def size(self) -> int:
        """The tokens that are computed: those before the test too."""
        return self.point.depth + self.point.tokens

    @property
    def words(self) -> str:
        model, dtype, test, tokens, depth, attention = self.point
        return f"{model} {dtype}, {test} {tokens} at {depth}, {attention}"

    @property
    def fixed_bytes(self) -> int:
        return int(self.facts.get("weight_bytes", 0))

    @property
    def growing_bytes(self) -> int:
        return super().growing_bytes + int(self.facts.get("cache_bytes", 0))

    def is_of(self, earlier: InferenceTest) -> bool:
        point = (
            earlier.model, earlier.dtype, earlier.test, earlier.tokens, earlier.depth, earlier.attention
        )  # fmt: skip
        return point == self.point

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
            attention_ns=self.median_of("attention_ns"),
            attention_share=self.median_of("attention_share"),
            peak_bytes=self.peak_bytes,
            note=self.checks[-1].get("note") if self.checks else None,
            processes=self.processes_as(InferenceProcess),
            **{name: self.facts[name] for name in self.FACTS if name in self.facts},
        )
