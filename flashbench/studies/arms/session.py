"""One run over the rows of a study: memory first, then rounds of times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from flashbench.analysis.groups import grouped
from flashbench.analysis.sizes import size_word
from flashbench.measure.machine import available_memory_bytes
from flashbench.measure.pool import WorkerPool
from flashbench.measure.timing import turn_order
from flashbench.measure.worker import Worker
from flashbench.results.record import Process
from flashbench.studies.arms.row import ArmRow
from flashbench.studies.forecast import Forecast, Step
from flashbench.studies.progress import Progress
from flashbench.studies.session import MEMORY, TIMING

Row = TypeVar("Row", bound=ArmRow)


class ArmStudy(Protocol):
    """The settings that a session needs. Those of `train` and `infer` have them under these names."""

    @property
    def kind(self) -> Literal["train", "infer"]: ...
    @property
    def memory(self) -> bool: ...
    @property
    def rounds(self) -> int: ...
    @property
    def repeats(self) -> int: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def memory_budget_bytes(self) -> int | None: ...


class Workers(NamedTuple):
    """How worker processes make a row's workload."""

    factory: str
    arguments: Callable[[Any], dict[str, Any]]  # of a row's point
    modules: tuple[str, ...]  # to import before the first row


class ArmSession(Generic[Row]):
    """Measures rows. A failed row keeps its reason, and the rest goes on.

    compare: of rows of one place, marks those whose results differ from the first one's.
    """

    def __init__(
        self,
        study: ArmStudy,
        rows: Sequence[Row],
        threads: int,
        workers: Workers,
        compare: Callable[[Sequence[Row]], None],
        on_progress: Callable[[Progress], None],
        on_step: Callable[[], None],
    ) -> None:
        self.rows, self.processes = list(rows), dict[str, Process]()
        self._study, self._workers, self._compare = study, workers, compare
        self._on_progress, self._on_step = on_progress, on_step
        self._pool = WorkerPool(threads, timeout_s=study.timeout_s)
        self._forecast = Forecast()

    def measure(self) -> None:
        """Measure every row that can run."""
        with self._pool:
            if self._study.memory:
                for arm in grouped(self.rows, lambda row: row.point.attention).values():
                    self._measure_memory([row for row in arm if row.can_run])
            for number in range(self._study.rounds):
                self._round(number)
        for arms in grouped(self.rows, lambda row: row.place).values():
            self._compare(arms)
        self._on_progress(Progress(self._total, self._total, "done", 0.0))

    @property
    def _total(self) -> int:
        runnable = sum(row.status != "unsupported" for row in self.rows)
        return runnable * (self._study.rounds + self._study.memory)

    def _measure_memory(self, arm: Sequence[Row]) -> None:
        """Measure memory in processes that are not timed. Small rows first: they predict larger ones."""
        if all(row.peak_bytes is not None for row in arm):
            return
        with self._pool.fresh() as shared:
            for row in arm:
                if row.peak_bytes is not None:  # measured by the run that this one resumes
                    continue
                self._report(row, "memory")
                if shared.alive:
                    self._measure_memory_of(row, shared, arm)
                else:  # an earlier row ended the process
                    with self._pool.fresh() as worker:
                        self._measure_memory_of(row, worker, arm)

    def _measure_memory_of(self, row: Row, worker: Worker, arm: Sequence[Row]) -> None:
        row.tried = True
        needs, left = foretold_bytes(row, arm), self._memory_left()
        if needs > left:
            row.status = "too_large"
            row.reason = f"needs some {size_word(needs)}, {size_word(left)} are there: foretold, not tried"
            return
        started = time.monotonic()
        with row.keeping_failure():
            self._prepare(row, worker)
            row.peak_bytes = worker.memory(row.slot).workspace_peak_bytes
            worker.release(row.slot)
        self._forecast.learn(_step(MEMORY, row), time.monotonic() - started)
        self._on_step()

    def _prepare(self, row: Row, worker: Worker) -> None:
        row.facts = worker.prepare(row.slot, self._workers.factory, self._workers.arguments(row.point))

    def _round(self, number: int) -> None:
        """Time one burst of each row, in fresh processes for this round."""
        rows = [row for row in self.rows if row.can_run and len(row.samples) <= number]
        arms = list(dict.fromkeys(row.point.attention for row in rows))
        self._pool.renew(dict.fromkeys(arms, self._workers.modules))
        for group in grouped(rows, lambda row: row.place).values():
            for place in turn_order(len(group), number):
                self._time(group[place], number)

    def _time(self, row: Row, number: int) -> None:
        row.tried = True
        self._report(row, f"time, round {number + 1} of {self._study.rounds}")
        started = time.monotonic()
        attention = row.point.attention
        with row.keeping_failure(), self._pool.turn(attention) as worker:
            self._prepare(row, worker)
            if attention not in self.processes:
                self.processes[attention] = msgspec.convert(worker.facts(), Process)
            timed, check = worker.time(row.slot, self._study.repeats), worker.check(row.slot)
            # Append both together, so that an interrupt leaves both or neither.
            row.samples.append(timed.samples_ns)
            row.checks.append(check)
            row.throttled_periods += timed.cpu.throttled_periods
            worker.release(row.slot)
        self._forecast.learn(_step(TIMING, row), time.monotonic() - started)
        self._on_step()

    def _memory_left(self) -> int:
        free, budget = available_memory_bytes(), self._study.memory_budget_bytes
        return free if budget is None else min(free, budget)

    def _report(self, row: Row, what: str) -> None:
        left = [_step(kind, each) for each in self.rows if each.can_run for kind in self._lacks(each)]
        done = max(0, self._total - len(left))
        self._on_progress(Progress(done, self._total, f"{row.words}: {what}", self._forecast.total(left)))

    def _lacks(self, row: Row) -> list[str]:
        """The kinds of the row's remaining steps, including the present one."""
        memory = self._study.memory and row.peak_bytes is None
        return [MEMORY] * memory + [TIMING] * (self._study.rounds - len(row.samples))


def _step(kind: str, row: ArmRow) -> Step:
    """A step for the forecast, sized by the row: time grows at least linearly with its size."""
    return Step(kind, (row.place, row.point.attention), row.size)


def foretold_bytes(row: ArmRow, arm: Sequence[ArmRow]) -> int:
    """Predict the memory of a row from smaller rows of the same family; 0 if there are none.

    It grows from the largest measured row by the power between the last two, at least 1 and at most the row's
    `GROWTH`. From a single row it grows by that. arm: rows with the same attention.
    """
    smaller = sorted(
        (other for other in arm if other.family == row.family and other.growing_bytes),
        key=lambda other: other.size,
    )
    if not smaller:
        return 0
    last, power = smaller[-1], row.GROWTH
    if len(smaller) > 1:
        before = smaller[-2]
        seen = math.log(last.growing_bytes / before.growing_bytes) / math.log(last.size / before.size)
        power = min(power, max(1.0, seen))
    return last.fixed_bytes + math.ceil(last.growing_bytes * math.pow(row.size / last.size, power))
