"""Runs a training study and makes its results, even if arms fail."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import msgspec

from flashbench.analysis.advice import run_warnings
from flashbench.analysis.movement import throttle_warnings
from flashbench.analysis.sizes import size_word
from flashbench.measure.machine import available_memory_bytes, describe_machine
from flashbench.measure.pool import WorkerPool
from flashbench.measure.timing import turn_order
from flashbench.measure.worker import Worker
from flashbench.results.record import Process, Results
from flashbench.studies.forecast import Forecast, Step
from flashbench.studies.nothing import is_empty, nothing_to_measure
from flashbench.studies.resume import check_same_study
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.studies.runner import FAILURES, Interrupted
from flashbench.studies.session import MEMORY, TIMING, Progress
from flashbench.studies.train import workload
from flashbench.studies.train.agreement import disagreement
from flashbench.studies.train.obstacles import Obstacles
from flashbench.studies.train.row import TrainRow
from flashbench.studies.train.study import TrainDtype, TrainStudy
from flashbench.system.cores import available_cores

OnProgress = Callable[[Progress], None]
_MODULES = (workload.__name__, "flashbench.integrations.forecasting.blocks")


def run(
    study: TrainStudy,
    *,
    command: Sequence[str],
    on_progress: OnProgress = lambda _: None,
    on_results: Callable[[Results], None] = lambda _: None,
    earlier: Results | None = None,
) -> Results:
    """Measure every point of the study. A failed point becomes a row with its reason.

    on_results: gets all results so far after each step.
    earlier: the results of an unfinished run, from which this run continues.

    Raises ResultsError if `earlier` is from another study or machine, EngineError if packages that the models
    need are missing, ConfigError for a bad CSV file, NothingToMeasureError if no point can be trained, and
    Interrupted on Ctrl-C, with the results so far.
    """
    threads = study.threads or available_cores()
    record = RunRecord("train", command, {**msgspec.to_builtins(study), "threads": threads})
    facts = describe_machine()
    session = _Session(study, threads, on_progress, lambda: on_results(results(complete=False)))
    if earlier is not None:
        known = msgspec.to_builtins(TrainStudy()) | earlier.config
        check_same_study(earlier, record.config, facts.cpu, kind="train", known_config=known)
        session.restore(earlier)

    def results(*, complete: bool) -> Results:
        machine = make_machine(facts, {}, threads)
        return record.results(
            machine,
            training=[row.record() for row in session.rows if row.tried],
            processes={**(earlier.processes if earlier else {}), **session.processes},
            warnings=[
                *run_warnings(machine),
                *throttle_warnings(sum(row.throttled_periods for row in session.rows)),
            ],
            complete=complete,
        )

    try:
        session.measure()
    except KeyboardInterrupt:
        raise Interrupted(results(complete=False)) from None
    return results(complete=True)


def failed(results: Results) -> bool:
    """Whether a point failed, its losses differ from the other arms', or no point was timed."""
    return is_empty(results) or any(row.status in FAILURES for row in results.training)


class _Session:
    """One run: it measures memory first, then rounds of times."""

    def __init__(
        self, study: TrainStudy, threads: int, on_progress: OnProgress, on_step: Callable[[], None]
    ) -> None:
        # This import does not load PyTorch. Only the workers load it.
        from flashbench.integrations.forecasting.models import find_model

        obstacles = Obstacles(study)
        self._study, self._on_progress, self._on_step = study, on_progress, on_step
        self.rows = []
        for point in study.points():
            model = find_model(point.model)
            variant = None if model.exact or point.attention == "original" else study.variant
            row = TrainRow(point, model.label(variant), study.windows, threads, study.dtype)
            if (reason := obstacles.of(point)) is not None:
                row.status, row.tried, row.reason = "unsupported", True, reason
            self.rows.append(row)
        if not any(row.can_run for row in self.rows):
            raise nothing_to_measure((row.label, row.reason) for row in self.rows)
        self.processes: dict[str, Process] = {}
        self._pool = WorkerPool(threads, timeout_s=study.timeout_s)
        self._forecast = Forecast()

    def restore(self, earlier: Results) -> None:
        """Continue from the rows of an unfinished run. Rows that failed are tried again."""
        known = {(step.model, step.attention, step.context_length): step for step in earlier.training}
        for row in self.rows:
            found = known.get((row.label, row.point.attention, row.point.context_length))
            if found is not None and row.can_run and found.status in ("ok", "wrong"):
                row.restore(found)

    def measure(self) -> None:
        with self._pool:
            if self._study.memory:
                for attention in self._study.attentions:
                    arm = [row for row in self.rows if row.can_run and row.point.attention == attention]
                    if any(row.peak_bytes is None for row in arm):
                        self._measure_memory(arm)
            for number in range(self._study.rounds):
                self._round(number)
        for arms in _groups(self.rows):
            _compare_losses(arms, self._study.dtype)
        self._on_progress(Progress(self._total, self._total, "done", 0.0))

    @property
    def _total(self) -> int:
        runnable = sum(row.status != "unsupported" for row in self.rows)
        return runnable * (self._study.rounds + self._study.memory)

    def _measure_memory(self, rows: Sequence[TrainRow]) -> None:
        """Measure memory in processes that are not timed. Short contexts first: they predict longer ones."""
        with self._pool.fresh() as shared:
            for row in rows:
                if row.peak_bytes is not None:  # measured by the run that this one resumes
                    continue
                self._report(row, "memory")
                if shared.alive:
                    self._measure_memory_of(row, shared, rows)
                else:  # an earlier row ended the process
                    with self._pool.fresh() as worker:
                        self._measure_memory_of(row, worker, rows)

    def _measure_memory_of(self, row: TrainRow, worker: Worker, rows: Sequence[TrainRow]) -> None:
        row.tried = True
        needs, left = _foretold_bytes(row, rows), self._memory_left()
        if needs > left:
            row.status = "too_large"
            row.reason = f"needs some {size_word(needs)}, {size_word(left)} are there: foretold, not tried"
            return
        started = time.monotonic()
        with row.keeping_failure():
            row.facts = worker.prepare(row.slot, workload.FACTORY, workload.arguments(row.point, self._study))
            row.peak_bytes = worker.memory(row.slot).workspace_peak_bytes
            worker.release(row.slot)
        self._forecast.learn(_step(MEMORY, row), time.monotonic() - started)
        self._on_step()

    def _round(self, number: int) -> None:
        """Time one burst of each point, in fresh processes for this round."""
        rows = [row for row in self.rows if row.can_run and len(row.samples) <= number]
        arms = list(dict.fromkeys(row.point.attention for row in rows))
        self._pool.renew(dict.fromkeys(arms, _MODULES))
        for group in _groups(rows):
            for place in turn_order(len(group), number):
                self._time(group[place], number)

    def _time(self, row: TrainRow, number: int) -> None:
        row.tried = True
        self._report(row, f"time, round {number + 1} of {self._study.rounds}")
        started = time.monotonic()
        with row.keeping_failure(), self._pool.turn(row.point.attention) as worker:
            row.facts = worker.prepare(row.slot, workload.FACTORY, workload.arguments(row.point, self._study))
            if row.point.attention not in self.processes:
                self.processes[row.point.attention] = msgspec.convert(worker.facts(), Process)
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

    def _report(self, row: TrainRow, what: str) -> None:
        label = f"{row.label}, context {row.point.context_length}, {row.point.attention}: {what}"
        left = [_step(kind, each) for each in self.rows if each.can_run for kind in self._lacks(each)]
        done = max(0, self._total - len(left))
        self._on_progress(Progress(done, self._total, label, self._forecast.total(left)))

    def _lacks(self, row: TrainRow) -> list[str]:
        """The kinds of the row's remaining steps, including the present one."""
        memory = self._study.memory and row.peak_bytes is None
        return [MEMORY] * memory + [TIMING] * (self._study.rounds - len(row.samples))


def _step(kind: str, row: TrainRow) -> Step:
    """A step for the forecast, sized by the context: time grows at least linearly with it."""
    return Step(kind, (row.label, row.point), row.point.context_length)


def _groups(rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
    """The rows grouped by model and context length: the arms of each."""
    found: dict[tuple[str, int], list[TrainRow]] = {}
    for row in rows:
        found.setdefault((row.label, row.point.context_length), []).append(row)
    return list(found.values())


def _compare_losses(arms: Sequence[TrainRow], dtype: TrainDtype) -> None:
    """Compare each arm's losses with those of the first arm that trained. An arm that differs is wrong."""
    trained = [row.checks[-1]["losses"] for row in arms if row.can_run and row.checks]
    for row in arms:
        if row.can_run and row.checks:
            found = disagreement(row.checks[-1]["losses"], trained[0], dtype)
            if found is not None:
                row.status, row.reason = "wrong", found


def _foretold_bytes(row: TrainRow, rows: Sequence[TrainRow]) -> int:
    """Predict peak memory from the peaks of the same model and arm at shorter contexts; 0 if there are none.

    The peak grows from the longest measured context by the power between the last two, at least 1 and at most
    2. From a single peak it grows by the square.
    """
    shorter = sorted(
        (other.point.context_length, other.peak_bytes)
        for other in rows
        if other.point.model == row.point.model and other.peak_bytes
    )
    if not shorter:
        return 0
    length, peak = shorter[-1]
    power: float = 2
    if len(shorter) > 1:
        before, less = shorter[-2]
        power = min(2.0, max(1.0, math.log(peak / less) / math.log(length / before)))
    return math.ceil(float(peak * (row.point.context_length / length) ** power))
