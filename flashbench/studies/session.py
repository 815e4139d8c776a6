"""One run: which worker does what, in which order, so that nothing disturbs a timing.

Each round starts a fresh process for each engine and visits every point once; the engines of a point take
turns. So every process gives one median for every point, a slow drift of the machine affects all points
alike, and an interrupted run knows every point roughly instead of a few precisely.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import msgspec

from flashbench.analysis.problem_words import length_word
from flashbench.analysis.sizes import size_word
from flashbench.analysis.words import counted
from flashbench.engines import refusal
from flashbench.features.words import window_word
from flashbench.measure.machine import available_memory_bytes
from flashbench.measure.pool import WorkerPool
from flashbench.measure.timing import turn_order
from flashbench.measure.worker import Worker
from flashbench.results.record import Memory, Process, Status
from flashbench.studies import workload
from flashbench.studies.budget import Budget
from flashbench.studies.bursts import time_row
from flashbench.studies.checking import check_row
from flashbench.studies.forecast import Forecast, Step
from flashbench.studies.limits import Limits
from flashbench.studies.nothing import nothing_to_measure
from flashbench.studies.progress import Progress
from flashbench.studies.rows import Row, rows_of
from flashbench.studies.study import Study

# Kinds of step, which forecasts keep apart.
TIMING, MEMORY = "time", "memory"


class Session:
    """The state of one run."""

    def __init__(
        self,
        study: Study,
        on_progress: Callable[[Progress], None],
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """study: names its threads. on_step: called after each step, while all workers are idle.

        Raises EngineError when an engine is unknown or its library is missing.
        """
        self.rows = rows_of(study)
        self._processes: dict[tuple[str, int], Process] = {}
        self._study = study
        self._on_progress, self._on_step = on_progress, on_step
        # A library reads its number of threads when it is loaded, so each number has workers of its own.
        self._pools = {row.threads: WorkerPool(row.threads, timeout_s=study.timeout_s) for row in self.rows}
        self.limits = {count: Limits(pool, count) for count, pool in self._pools.items()}
        self._forecast = Forecast()
        self._budget = None if study.budget_s is None else Budget(study.budget_s)

    @property
    def processes(self) -> dict[str, Process]:
        """By engine; of several numbers of threads those with most."""
        known = sorted(self._processes, key=lambda place: place[1])
        return {engine: self._processes[engine, threads] for engine, threads in known}

    @property
    def complete(self) -> bool:
        """Whether every point has its rounds and its memory; with a budget, whether every point was tried."""
        return not any(self._lacks_time(row) or self._lacks_memory(row) for row in self.rows)

    def measure(self) -> None:
        """Time all rows, round by round, then measure their memory.

        Raises NothingToMeasureError, before anything starts, if no row can run.
        """
        obstacles = [self._obstacle(row) for row in self.rows]
        if None not in obstacles:
            engines = [row.point.engine for row in self.rows]
            raise nothing_to_measure(
                (name, found[1]) for name, found in zip(engines, obstacles, strict=True) if found
            )
        with contextlib.ExitStack() as stack:
            for pool in self._pools.values():
                stack.enter_context(pool)
            if any(self._lacks_time(row) for row in self.rows):
                self.limits[max(self.limits)].time_bandwidth()
            for number in range(self._least_rounds):
                self._round(number, [row for row in self.rows if self._lacks_time(row, number + 1)])
            for row in self.rows:
                if self._lacks_memory(row) and self._has_time_for(MEMORY, [row]):
                    self._measure_memory(row)
            if self._budget is not None:
                self._spend(self._budget)
        total = self._total()
        self._on_progress(Progress(total, total, "done", 0.0))

    @property
    def _least_rounds(self) -> int:
        return 1 if self._budget is not None else self._study.rounds

    def _lacks_time(self, row: Row, rounds: int | None = None) -> bool:
        wanted = self._least_rounds if rounds is None else rounds
        return row.can_run and len(row.samples) < wanted

    def _lacks_memory(self, row: Row) -> bool:
        return self._study.memory and row.can_run and row.memory is None

    def _round(self, number: int, rows: Iterable[Row]) -> None:
        """One burst of each row and of the hardware limits, in fresh processes."""
        rows = [row for row in rows if self._is_runnable(row)]
        for threads in {row.threads for row in rows if row.reads_memory}:
            self.limits[threads].time_bandwidth()  # in each round, as the peak below
        started = time.monotonic()
        for threads, pool in self._pools.items():
            own = [row for row in rows if row.threads == threads]
            pool.renew({row.point.engine: (workload.__name__, *row.modules) for row in own})
        if self._budget is not None:
            self._budget.start_s = time.monotonic() - started
        for _, neighbours in groupby(rows, key=lambda row: (row.point.problem, row.point.direction)):
            group = list(neighbours)
            for place in turn_order(len(group) + 1, number):
                if not self._has_time_for(TIMING, group[place : place + 1]):
                    continue
                if place == len(group):
                    self._time_peaks(group)
                else:
                    self._time(group[place], number)

    def _time_peaks(self, rows: Sequence[Row]) -> None:
        """One burst for each path and number of threads of these rows.

        A row without a path is compared with the CPU's fastest.
        """
        from flashbench.kernels.products.paths import fastest_path  # here: loads Numba

        dtype = rows[0].point.problem.dtype
        for threads, path in dict.fromkeys((row.threads, row.path or fastest_path(dtype)) for row in rows):
            self.limits[threads].time_peak(dtype, path)

    def _time(self, row: Row, number: int) -> None:
        """First call, the check if there was none yet, a burst; then free the point's memory."""
        started = time.monotonic()
        study = self._study
        with row.keeping_failure(), self._pools[row.threads].turn(row.point.engine) as worker:
            self._report(row, "first call")
            self._prepare(row, worker)
            if study.check and row.accuracy is None:
                self._report(row, "exactness")
                check_row(row, worker)
                started = time.monotonic()  # only the first round checks, so the forecast must not count it
            of = "" if self._budget is not None else f" of {study.rounds}"
            self._report(row, f"time, round {number + 1}{of}")
            time_row(row, worker, study)
            worker.release(row.slot)
        self._learn(TIMING, row, started)
        self._on_step()

    def _prepare(self, row: Row, worker: Worker, *, keep_scratch: bool = True) -> None:
        arguments = workload.arguments(row.point, self._study.seed, keep_scratch=keep_scratch)
        row.describe(worker.prepare(row.slot, workload.FACTORY, arguments))
        if (row.point.engine, row.threads) not in self._processes:
            self._processes[row.point.engine, row.threads] = msgspec.convert(worker.facts(), Process)

    def _measure_memory(self, row: Row) -> None:
        """In a process of its own: memray must not slow a timing, nor other points' memory count here."""
        problem, _, direction, _ = row.point
        started = time.monotonic()
        self._report(row, "memory")
        with row.keeping_failure(), self._pools[row.threads].fresh() as worker:
            self._prepare(row, worker, keep_scratch=False)
            measured = worker.memory(row.slot)
            row.memory = Memory(
                workspace_peak_bytes=measured.workspace_peak_bytes,
                resident_delta_bytes=measured.resident_delta_bytes,
                instrument=measured.instrument,
                expected_workspace_bytes=row.expected_workspace_bytes,
                input_bytes=problem.input_bytes(direction),
                output_bytes=row.output_bytes,
            )
        self._learn(MEMORY, row, started)
        self._on_step()

    def _spend(self, budget: Budget) -> None:
        """Further rounds of the rows with most uncertainty for their cost, until the budget is used up."""
        number = max((len(row.samples) for row in self.rows), default=0)
        while chosen := budget.worth_another_round(
            [row for row in self.rows if row.can_run and row.samples],
            lambda row: self._forecast.seconds(_step(TIMING, row)),
        ):
            self._round(number, chosen)
            number += 1

    def _is_runnable(self, row: Row) -> bool:
        """Whether the row can run; if not, the row gets a status and a reason at its first turn."""
        if not row.tried:
            obstacle = self._obstacle(row)
            row.tried = True
            if obstacle is not None:
                row.status, row.reason = obstacle
        return row.can_run

    def _obstacle(self, row: Row) -> tuple[Status, str | None] | None:
        """The status and reason of a row that cannot run; None if it can be tried."""
        if row.tried:  # by a run that this one resumes
            return None if row.can_run else (row.status, row.reason)
        assert row.engine is not None
        reason = refusal(row.engine, row.point.problem, row.point.direction)
        if reason is not None:
            return "unsupported", reason
        left, limit = self._memory_left()
        if row.predicted_bytes > left:
            return "too_large", f"needs {size_word(row.predicted_bytes)}, {limit}: predicted, not tried"
        return None

    def _memory_left(self) -> tuple[int, str]:
        """Bytes that a point may use now, and the limit in words."""
        free, budget = available_memory_bytes(), self._study.memory_budget_bytes
        if budget is not None and budget < free:
            return budget, f"the memory budget is {size_word(budget)}"
        return free, f"this machine has {size_word(free)} free"

    def _has_time_for(self, kind: str, rows: Sequence[Row]) -> bool:
        """Whether the budget, if any, has time for these steps."""
        if self._budget is None:
            return True
        seconds = sum(self._forecast.seconds(_step(kind, row)) or 0.0 for row in rows)
        return seconds <= self._budget.left_s

    def _learn(self, kind: str, row: Row, started: float) -> None:
        self._forecast.learn(_step(kind, row), time.monotonic() - started)

    def _total(self) -> int:
        return len(self.rows) * (self._least_rounds + self._study.memory)

    def _report(self, row: Row, what: str) -> None:
        problem, engine, direction, settings = row.point
        block = "" if settings.block_q is None else f", blocks {settings.block_q} x {settings.block_k}"
        window = f", window {window_word(problem)}" if len(self._study.windows) > 1 else ""
        threads = f", {counted(row.threads, 'thread')}" if len(self._pools) > 1 else ""
        label = f"{engine} {direction}, N={length_word(problem)}{window}{block}{threads}: {what}"
        left = [
            _step(kind, row)
            for row in self.rows
            if row.can_run
            for kind, count in (
                (TIMING, max(0, self._least_rounds - len(row.samples))),
                (MEMORY, int(self._lacks_memory(row))),
            )
            for _ in range(count)
        ]
        total = self._total()
        left_s = self._forecast.total(left) if self._budget is None else max(0.0, self._budget.left_s)
        self._on_progress(Progress(max(0, total - len(left)), total, label, left_s))


def _step(kind: str, row: Row) -> Step:
    return Step(kind, row.slot, max(1, row.point.problem.flops(row.point.direction)))
