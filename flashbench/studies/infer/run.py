"""Runs a study of inference and makes its results, even if arms fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import msgspec

from flashbench.analysis.advice import run_warnings
from flashbench.analysis.groups import grouped
from flashbench.analysis.movement import throttle_warnings
from flashbench.analysis.sizes import size_word
from flashbench.errors import EngineError
from flashbench.measure.machine import describe_machine
from flashbench.measure.pool import WorkerPool
from flashbench.measure.timing import turn_order
from flashbench.measure.worker import Worker
from flashbench.results.record import Process, Results
from flashbench.studies.forecast import Forecast, Step
from flashbench.studies.infer import workload
from flashbench.studies.infer.agreement import disagreement
from flashbench.studies.infer.models import settings_of
from flashbench.studies.infer.row import InferRow
from flashbench.studies.infer.study import InferPoint, InferStudy
from flashbench.studies.nothing import is_empty
from flashbench.studies.resume import check_same_study
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.studies.runner import FAILURES, Interrupted
from flashbench.studies.session import MEMORY, TIMING, Progress
from flashbench.system.cores import available_cores

OnProgress = Callable[[Progress], None]
_MODULES = (workload.__name__, "flashbench.integrations.huggingface")


def run(
    study: InferStudy,
    *,
    command: Sequence[str],
    on_progress: OnProgress = lambda _: None,
    on_results: Callable[[Results], None] = lambda _: None,
    earlier: Results | None = None,
) -> Results:
    """Measure every point of the study. A failed point becomes a row with its reason.

    on_results: gets all results so far after each step.
    earlier: the results of an unfinished run, from which this run continues.

    Raises ConfigError for a model that does not exist, EngineError if transformers is missing, ResultsError
    if `earlier` is from another study or machine, and Interrupted on Ctrl-C, with the results so far.
    """
    for model in study.models:
        settings_of(model)
    if find_spec("transformers") is None:
        raise EngineError("whole models need the package 'transformers'", hint="pip install 'flashbench[hf]'")
    threads = study.threads or available_cores()
    record = RunRecord("infer", command, {**msgspec.to_builtins(study), "threads": threads})
    facts = describe_machine()
    session = _Session(study, threads, on_progress, lambda: on_results(results(complete=False)))
    if earlier is not None:
        known = msgspec.to_builtins(InferStudy()) | earlier.config
        check_same_study(earlier, record.config, facts.cpu, kind="infer", known_config=known)
        session.restore(earlier)

    def results(*, complete: bool) -> Results:
        machine = make_machine(facts, {}, threads)
        return record.results(
            machine,
            inference=[row.record() for row in session.rows if row.tried],
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
    """Whether a point failed, its tokens differ from the other arms', or no point was timed."""
    return is_empty(results) or any(row.status in FAILURES for row in results.inference)


class _Session:
    """One run: it measures memory first, then rounds of times."""

    def __init__(
        self, study: InferStudy, threads: int, on_progress: OnProgress, on_step: Callable[[], None]
    ) -> None:
        self._study, self._on_progress, self._on_step = study, on_progress, on_step
        self.rows = [InferRow(point, study.batch, threads) for point in study.points()]
        self.processes: dict[str, Process] = {}
        self._pool = WorkerPool(threads, timeout_s=study.timeout_s)
        self._forecast = Forecast()

    def restore(self, earlier: Results) -> None:
        """Continue from the rows of an unfinished run. Rows that failed are tried again."""
        known = {
            InferPoint(test.model, test.dtype, test.test, test.tokens, test.depth, test.attention): test
            for test in earlier.inference
        }
        for row in self.rows:
            found = known.get(row.point)
            if found is not None and found.status in ("ok", "wrong"):
                row.restore(found)

    def measure(self) -> None:
        with self._pool:
            if self._study.memory:
                for attention in self._study.attentions:
                    arm = [row for row in self.rows if row.point.attention == attention]
                    if any(row.can_run and row.peak_bytes is None for row in arm):
                        self._measure_memory(arm)
            for number in range(self._study.rounds):
                self._round(number)
        for arms in grouped(self.rows, lambda row: row.point.place).values():
            _compare_tokens(arms)
        self._on_progress(Progress(self._total, self._total, "done", 0.0))

    @property
    def _total(self) -> int:
        return len(self.rows) * (self._study.rounds + self._study.memory)

    def _measure_memory(self, rows: Sequence[InferRow]) -> None:
        """Measure memory in processes that are not timed."""
        with self._pool.fresh() as shared:
            for row in rows:
                if not row.can_run or row.peak_bytes is not None:  # measured by the run that this one resumes
                    continue
                self._report(row, "memory")
                if shared.alive:
                    self._measure_memory_of(row, shared)
                else:  # an earlier row ended the process
                    with self._pool.fresh() as worker:
                        self._measure_memory_of(row, worker)

    def _measure_memory_of(self, row: InferRow, worker: Worker) -> None:
        row.tried = True
        started = time.monotonic()
        with row.keeping_failure():
            row.facts = self._prepared(row, worker)
            row.peak_bytes = worker.memory(row.slot).workspace_peak_bytes
            worker.release(row.slot)
        self._forecast.learn(_step(MEMORY, row), time.monotonic() - started)
        budget = self._study.memory_budget_bytes
        needs = sum(row.facts.get(name, 0) for name in ("weight_bytes", "cache_bytes")) + (
            row.peak_bytes or 0
        )
        if budget is not None and row.can_run and needs > budget:
            row.status = "too_large"
            row.reason = f"needs {size_word(needs)}, the budget is {size_word(budget)}"
        self._on_step()

    def _prepared(self, row: InferRow, worker: Worker) -> dict[str, Any]:
        arguments = workload.arguments(row.point, self._study)
        found: dict[str, Any] = worker.prepare(row.slot, workload.FACTORY, arguments)
        return found

    def _round(self, number: int) -> None:
        """Time one burst of each point, in fresh processes for this round."""
        rows = [row for row in self.rows if row.can_run and len(row.samples) <= number]
        arms = list(dict.fromkeys(row.point.attention for row in rows))
        self._pool.renew(dict.fromkeys(arms, _MODULES))
        for group in grouped(rows, lambda row: row.point.place).values():
            for place in turn_order(len(group), number):
                self._time(group[place], number)

    def _time(self, row: InferRow, number: int) -> None:
        row.tried = True
        self._report(row, f"time, round {number + 1} of {self._study.rounds}")
        started = time.monotonic()
        with row.keeping_failure(), self._pool.turn(row.point.attention) as worker:
            row.facts = self._prepared(row, worker)
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

    def _report(self, row: InferRow, what: str) -> None:
        left = [_step(kind, each) for each in self.rows if each.can_run for kind in self._lacks(each)]
        done = max(0, self._total - len(left))
        self._on_progress(Progress(done, self._total, f"{row.label}: {what}", self._forecast.total(left)))

    def _lacks(self, row: InferRow) -> list[str]:
        """The kinds of the row's remaining steps, including the present one."""
        memory = self._study.memory and row.peak_bytes is None
        return [MEMORY] * memory + [TIMING] * (self._study.rounds - len(row.samples))


def _step(kind: str, row: InferRow) -> Step:
    """A step for the forecast, sized by the tokens that are computed: those before the test too."""
    return Step(
        kind, (row.point.model, row.point.attention, row.point.test), row.point.depth + row.point.tokens
    )


def _compare_tokens(arms: Sequence[InferRow]) -> None:
    """Compare each arm's tokens with those of the first arm. An arm that differs is wrong."""
    known = [row for row in arms if row.can_run and "compared_tokens" in row.facts]
    for row in known[1:]:
        first = known[0].facts
        found = disagreement(
            row.facts["compared_tokens"], first["compared_tokens"], first["compared_leads"], row.point.dtype
        )
        if found is not None:
            row.status, row.reason = "wrong", found
