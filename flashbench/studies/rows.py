"""What is known so far about each point of a running study, and the record it becomes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flashbench.engines import Engine, Settings, get_engine
from flashbench.measure.statistics import spread
from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.results.record import Accuracy, Measurement, Memory, Rates, Status, Time
from flashbench.studies.fits import predicted_bytes
from flashbench.studies.study import Point, Study


@dataclass(eq=False)
class Row:
    """One point: filled in step by step, a `Measurement` in the end."""

    point: Point
    engine: Engine
    slot: str  # its name in a worker
    status: Status = "ok"
    reason: str | None = None
    done: bool = False
    home: Worker | None = None  # where it was prepared last
    bursts: list[list[int]] = field(default_factory=list)  # nanoseconds of single calls
    memory: Memory | None = None
    accuracy: Accuracy | None = None

    @property
    def can_run(self) -> bool:
        """Whether there is more to be had from this point. A wrong one is measured all the same."""
        return self.status in ("ok", "wrong")

    @property
    def predicted_bytes(self) -> int:
        """Inputs, outputs and workspace."""
        problem, _, direction, settings = self.point
        return predicted_bytes(problem, self.engine, direction, settings)

    @property
    def expected_workspace_bytes(self) -> int | None:
        """What the engine says it will take."""
        problem, _, direction, settings = self.point
        return self.engine.workspace_bytes(problem, direction, settings)

    @contextlib.contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """A worker's failure in the body becomes this row's status."""
        try:
            yield
        except WorkerFailure as failure:
            self.status, self.reason = failure.status, failure.reason

    def measurement(self, peak_gflops: float | None) -> Measurement:
        """The record; `peak_gflops` is the limit measured in the same run."""
        problem, engine, direction, settings = self.point
        block_q, block_k = self.engine.blocks(problem, direction, settings) or (None, None)
        time = self._time()
        rates = None
        if time is not None:
            gflops = problem.flops(direction) / time.median_ns
            rates = Rates(gflops=gflops, percent_of_peak=100 * gflops / peak_gflops if peak_gflops else None)
        return Measurement(
            problem=problem,
            engine=engine,
            direction=direction,
            block_q=block_q,
            block_k=block_k,
            blocks_asked=None if block_q is None else _asked(settings),
            threads=settings.num_threads,
            status=self.status,
            reason=self.reason,
            time=time,
            memory=self.memory,
            accuracy=self.accuracy,
            rates=rates,
        )

    def _time(self) -> Time | None:
        if not self.bursts:
            return None
        median, low, high = spread([sample for burst in self.bursts for sample in burst])
        return Time(samples_ns=self.bursts, median_ns=median, low_ns=low, high_ns=high)


def _asked(settings: Settings) -> tuple[int, int] | Literal["auto"]:
    if settings.block_q is None or settings.block_k is None:
        return "auto"
    return settings.block_q, settings.block_k


def rows_of(study: Study, threads: int) -> list[Row]:
    """One row per point; an engine without blocks has one for all block sizes."""
    engines = {name: get_engine(name) for name in study.engines}
    rows: list[Row] = []
    seen: set[Point] = set()
    for point in study.points():
        engine = engines[point.engine]
        settings = point.settings._replace(num_threads=threads)
        if engine.blocks(point.problem, point.direction, settings) is None:
            settings = settings._replace(block_q=None, block_k=None)
        point = point._replace(settings=settings)
        if point not in seen:
            seen.add(point)
            rows.append(Row(point, engine, slot=str(len(rows))))
    return rows


def fitting_groups(rows: Sequence[Row], available_bytes: int) -> list[list[Row]]:
    """Rows that may be in memory together, so that they can take turns; none of them alone is too large."""
    groups: list[list[Row]] = []
    waiting = list(rows)
    while waiting:
        group: list[Row] = []
        left = available_bytes
        for row in waiting:
            if not group or row.predicted_bytes <= left:
                group.append(row)
                left -= row.predicted_bytes
        groups.append(group)
        waiting = [row for row in waiting if row not in group]
    return groups
