"""One run: which worker does what, in which order, so that nothing disturbs a timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from flashbench.measure.machine import available_memory_bytes
from flashbench.measure.pool import WorkerPool
from flashbench.measure.timing import turns
from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.problem import Dtype
from flashbench.results.record import Accuracy, Memory
from flashbench.studies import peak, workload
from flashbench.studies.rows import Row, fitting_groups, rows_of
from flashbench.studies.study import Study

# A burst of short calls goes on for this long, or for this many calls where `repeats` is less.
BURST_NS = 50_000_000
BURST_CALLS = 50
PEAK_WORKER = "fma peak"


class Progress(NamedTuple):
    """How far a run has come: `done` of `total` points, and what it is at now."""

    done: int
    total: int
    label: str


class Session:
    """The state of one run."""

    def __init__(self, study: Study, threads: int, on_progress: Callable[[Progress], None]) -> None:
        """Raises EngineError when an engine is unknown or its library is missing."""
        self.rows = rows_of(study, threads)
        self._study = study
        self._threads = threads
        self._on_progress = on_progress
        self._pool = WorkerPool(threads, timeout_s=study.timeout_s)
        self._peaks: dict[Dtype, _Peak] = {}

    def peak_gflops(self) -> dict[str, float]:
        """The hardware limit of each dtype, where it could be measured."""
        found = {dtype: peak.peak_gflops(limit.flops, limit.bursts) for dtype, limit in self._peaks.items()}
        return {dtype: value for dtype, value in found.items() if value is not None}

    def measure(self) -> None:
        """Fill in all rows, problem by problem."""
        with self._pool:
            for _, rows in groupby(self.rows, key=lambda row: (row.point.problem, row.point.direction)):
                left, limit = self._memory_left()
                runnable = [row for row in rows if _is_runnable(row, left, limit)]
                for group in fitting_groups(runnable, left):
                    self._measure_together(group)
        self._on_progress(Progress(len(self.rows), len(self.rows), "done"))

    def _memory_left(self) -> tuple[int, str]:
        """Bytes that a point may need now, and the rule in words."""
        free, budget = available_memory_bytes(), self._study.memory_budget_bytes
        if budget is not None and budget < free:
            return budget, f"the memory budget is {_gib(budget)}"
        return free, f"this machine has {_gib(free)} free"

    def _measure_together(self, rows: Sequence[Row]) -> None:
        """Exactness first, then time in turns, then memory: timing and memray are never awake together."""
        for row in rows:
            self._report(row, "first call")
            with row.keeping_failure(), self._pool.turn(row.point.engine) as worker:
                self._prepare(row, worker)
                if self._study.check:
                    self._report(row, "exactness")
                    _check(row, worker)
        self._take_turns([row for row in rows if row.can_run])
        for row in rows:
            if self._study.memory and row.can_run:
                self._report(row, "memory")
                self._measure_memory(row)
            row.done = True

    def _prepare(self, row: Row, worker: Worker) -> None:
        worker.prepare(row.slot, workload.FACTORY, workload.arguments(row.point, self._study.seed))
        row.home = worker

    def _take_turns(self, rows: Sequence[Row]) -> None:
        """Bursts of every row and of the hardware limit, round by round."""
        for number, place in turns(len(rows) + 1, self._study.rounds if rows else 0):
            if place == len(rows):
                self._time_peak(rows[0].point.problem.dtype)
            elif rows[place].can_run:
                self._report(rows[place], f"time, round {number + 1} of {self._study.rounds}")
                self._time(rows[place])
        for row in rows:
            if row.home is not None and row.home.alive:
                with row.keeping_failure(), self._pool.turn(row.point.engine) as worker:
                    worker.release(row.slot)

    def _time(self, row: Row) -> None:
        with row.keeping_failure(), self._pool.turn(row.point.engine) as worker:
            if row.home is not worker:  # another point of this engine took the process down
                self._prepare(row, worker)
            row.bursts.append(
                worker.time(
                    row.slot, self._study.repeats, at_least_ns=BURST_NS, at_most=BURST_CALLS
                ).samples_ns
            )
        if not row.can_run:
            row.bursts.clear()

    def _time_peak(self, dtype: Dtype) -> None:
        """One burst of the hardware limit. Without it rows have no percentage, and are rows all the same."""
        limit = self._peaks.setdefault(dtype, _Peak())
        if limit.lost:
            return
        try:
            with self._pool.turn(PEAK_WORKER) as worker:
                if limit.flops == 0:
                    arguments = {"dtype": dtype, "threads": self._threads}
                    limit.flops = worker.prepare(dtype, peak.FACTORY, arguments)["flops"]
                limit.bursts.append(
                    worker.time(dtype, 1, at_least_ns=peak.BURST_NS, at_most=BURST_CALLS).samples_ns
                )
        except WorkerFailure:
            limit.lost = True

    def _measure_memory(self, row: Row) -> None:
        problem, engine, direction, _ = row.point
        # A process of its own: memray and what it leaves behind must not be timed.
        with row.keeping_failure(), self._pool.turn(f"{engine} memory") as worker:
            self._prepare(row, worker)
            measured = worker.memory(row.slot)
            worker.release(row.slot)
            row.memory = Memory(
                workspace_peak_bytes=measured.workspace_peak_bytes,
                resident_delta_bytes=measured.resident_delta_bytes,
                instrument=measured.instrument,
                expected_workspace_bytes=row.expected_workspace_bytes,
                input_bytes=problem.input_bytes(direction),
                output_bytes=problem.output_bytes(direction),
            )

    def _report(self, row: Row, what: str) -> None:
        problem, engine, direction, settings = row.point
        block = "" if settings.block_q is None else f", blocks {settings.block_q} x {settings.block_k}"
        label = f"{engine} {direction}, N={problem.seqlen_q}{block}: {what}"
        self._on_progress(Progress(sum(row.done for row in self.rows), len(self.rows), label))


class _Peak:
    """The hardware limit of one dtype, measured beside the engines."""

    def __init__(self) -> None:
        self.flops = 0  # of one call
        self.bursts: list[list[int]] = []
        self.lost = False  # it failed: do not try again


def _is_runnable(row: Row, bytes_left: int, limit: str) -> bool:
    """Whether to try this row; if not, the row says why."""
    reason = row.engine.unsupported(row.point.problem, row.point.direction)
    if reason is not None:
        row.status, row.reason, row.done = "unsupported", reason, True
    elif row.predicted_bytes > bytes_left:
        reason = f"needs {_gib(row.predicted_bytes)}, {limit}: predicted, not tried"
        row.status, row.reason, row.done = "too_large", reason, True
    return not row.done


def _check(row: Row, worker: Worker) -> None:
    found = workload.Checked(**worker.check(row.slot))
    row.accuracy = Accuracy(
        max_abs_error=found.max_abs_error, tolerance=found.tolerance, rows_checked=found.rows_checked
    )
    if found.wrong is not None:
        row.status, row.reason = "wrong", found.wrong


def _gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.1f} MiB"
