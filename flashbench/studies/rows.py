"""What a running study knows about each point so far, and the record of it."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from flashbench.analysis.decoding import kv_bytes_read, reads_memory
from flashbench.engines import ENGINES, Outline, Settings, get_outline, path_taken
from flashbench.measure.cpu import NO_USE, CpuUse
from flashbench.measure.statistics import process_medians
from flashbench.measure.timing import Burst
from flashbench.measure.worker import WorkerFailure
from flashbench.results.record import (
    Accuracy,
    Disturbance,
    Measurement,
    Memory,
    Rates,
    Side,
    Status,
    Time,
)
from flashbench.studies.memory_fit.fits import predicted_bytes
from flashbench.studies.study import Point, Study
from flashbench.studies.times import time_record


@dataclass(eq=False)
class Row:
    """One point, filled in step by step; `measurement` makes its record at any time."""

    point: Point
    slot: str  # its name in a worker
    engine: Outline | None = None  # None: only another environment has it
    blocks: tuple[int, int] | None = None  # as used
    path: str | None = None  # as used
    output_bytes: int = 0  # of a call's results; engines without lse return fewer
    side: Side | None = None
    status: Status = "ok"
    reason: str | None = None
    tried: bool = False
    kernel: str | None = None
    note: str | None = None
    samples: list[list[int]] = field(default_factory=list)  # nanoseconds of single calls, by process
    cpu: CpuUse = NO_USE  # while it was timed
    joules: list[float] = field(default_factory=list)  # of one call, by process
    memory: Memory | None = None
    accuracy: Accuracy | None = None
    earlier: Disturbance | None = None  # of the run that this one resumes

    @property
    def can_run(self) -> bool:
        """Whether to go on with this point. A point with a wrong result is measured too."""
        return self.status in ("ok", "wrong")

    @property
    def threads(self) -> int:
        """The number of threads of its worker."""
        threads = self.point.settings.num_threads
        assert threads is not None, "the study names it"
        return threads

    @property
    def modules(self) -> list[str]:
        """Modules that its worker may import before the first call."""
        built_in = ENGINES.get(self.point.engine)
        return [type(self.engine).__module__ if built_in is None else built_in.module]

    @property
    def predicted_bytes(self) -> int:
        """Inputs, outputs and workspace."""
        problem, _, direction, settings = self.point
        assert self.engine is not None
        return predicted_bytes(problem, self.engine, direction, settings)

    @property
    def expected_workspace_bytes(self) -> int | None:
        """The workspace that the engine expects."""
        problem, _, direction, settings = self.point
        assert self.engine is not None
        return self.engine.workspace_bytes(problem, direction, settings)

    @property
    def reads_memory(self) -> bool:
        """Whether its rate is in bytes a second."""
        return self.point.direction == "fwd" and reads_memory(self.point.problem)

    def add(self, burst: Burst, *, same_process: bool = False) -> None:
        """Add a burst, of a new process or of the last one."""
        if same_process:
            self.samples[-1].extend(burst.samples_ns)
        else:
            self.samples.append(list(burst.samples_ns))
        self.cpu += burst.cpu
        if burst.joules_per_call is not None:
            self.joules.append(burst.joules_per_call)

    @contextlib.contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """A worker's failure in the body becomes this row's status, and the row loses its times."""
        try:
            yield
        except WorkerFailure as failure:
            self.status, self.reason = failure.status, failure.reason
            self.samples.clear()

    def describe(self, description: dict[str, Any]) -> None:
        """Take over the description that the workload gave in its process."""
        self.kernel, self.note = description.get("kernel"), description.get("note")
        self.output_bytes = description["output_bytes"]
        blocks = description.get("blocks")
        self.blocks = None if blocks is None else (blocks[0], blocks[1])
        self.path = description.get("path")

    def restore(self, earlier: Measurement) -> None:
        """Take over an earlier run's record of this point."""
        self.tried = True
        self.status, self.reason = earlier.status, earlier.reason
        self.kernel, self.note = earlier.kernel, earlier.note
        self.path = earlier.isa_path or self.path
        self.samples = [list(process) for process in earlier.time.samples_ns] if earlier.time else []
        self.joules = [] if earlier.energy_joules is None else [earlier.energy_joules]
        self.memory, self.accuracy = earlier.memory, earlier.accuracy
        self.earlier = earlier.disturbance

    def measurement(self, peak_gflops: float | None, read_bandwidth_gbps: float | None = None) -> Measurement:
        """The record; the arguments are the hardware limits of the same run."""
        problem, engine, direction, settings = self.point
        block_q, block_k = self.blocks or (None, None)
        time = time_record(self.samples)
        return Measurement(
            problem=problem,
            engine=engine,
            direction=direction,
            block_q=block_q,
            block_k=block_k,
            blocks_asked=None if block_q is None else asked_blocks(settings),
            threads=settings.num_threads,
            status=self.status,
            reason=self.reason,
            side=self.side,
            kernel=self.kernel,
            isa_path=self.path,
            path_asked=None if self.path is None else settings.path,
            note=self.note,
            time=time,
            memory=self.memory,
            accuracy=self.accuracy,
            rates=None if time is None else self._rates(time, peak_gflops, read_bandwidth_gbps),
            energy_joules=statistics.median(self.joules) if self.joules else None,
            disturbance=self._disturbance(),
        )

    def _rates(self, time: Time, peak_gflops: float | None, read_bandwidth_gbps: float | None) -> Rates:
        problem, _, direction, _ = self.point
        gflops = problem.flops(direction) / time.median_ns
        gbps = None
        if self.reads_memory:
            gbps = kv_bytes_read(problem) / time.median_ns
        return Rates(
            gflops=gflops,
            percent_of_peak=_percent(gflops, peak_gflops),
            gbps=gbps,
            percent_of_bandwidth=_percent(gbps, read_bandwidth_gbps),
        )

    def _disturbance(self) -> Disturbance | None:
        if not self.samples:
            return None
        medians = process_medians(self.samples)
        moved = max(medians) / max(1, min(medians)) - 1
        if not self.cpu.wall_s:  # an earlier run timed everything
            return Disturbance(
                moved=moved,
                others_cores=self.earlier.others_cores if self.earlier else None,
                steal_percent=self.earlier.steal_percent if self.earlier else None,
                throttled_periods=self.earlier.throttled_periods if self.earlier else None,
            )
        return Disturbance(
            moved=moved,
            others_cores=self.cpu.others_cores,
            steal_percent=100 * self.cpu.steal_s / self.cpu.wall_s,
            throttled_periods=self.cpu.throttled_periods,
        )


def _percent(rate: float | None, limit: float | None) -> float | None:
    return None if rate is None or not limit else 100 * rate / limit


def asked_blocks(settings: Settings) -> tuple[int, int] | Literal["auto"]:
    """The block sizes asked for, as in a record."""
    if settings.block_q is None or settings.block_k is None:
        return "auto"
    return settings.block_q, settings.block_k


def rows_of(study: Study) -> list[Row]:
    """One row for each point; an engine without blocks, or paths, has one row for all of them.

    study: names its threads. Raises ConfigError for a path that this CPU cannot run.
    """
    engines = {name: get_outline(name) for name in study.engines}
    rows: list[Row] = []
    seen: set[Point] = set()
    for point in study.points():
        engine = engines[point.engine]
        settings = point.settings
        blocks = engine.blocks(point.problem, point.direction, settings)
        if blocks is None:
            settings = settings._replace(block_q=None, block_k=None)
        path = path_taken(engine, point.problem, point.direction, settings)
        if settings.path is not None:
            settings = settings._replace(path=path)
        point = point._replace(settings=settings)
        if point not in seen:
            seen.add(point)
            rows.append(Row(point, slot=str(len(rows)), engine=engine, blocks=blocks, path=path))
    return rows
