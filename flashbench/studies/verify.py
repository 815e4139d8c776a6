"""Exactness of engines against the float64 oracle, case by case, forward and gradients."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal

import msgspec
import numpy as np

from flashbench.dtypes import DtypeEntry, entry_of_output, is_half
from flashbench.engines import Array, Engine, Forward, get_engine, refusal
from flashbench.errors import UnsupportedError
from flashbench.problem import AttentionProblem, Direction, Feature
from flashbench.reference import largest_error, worst_place
from flashbench.results.record import Record
from flashbench.studies.cases import DEFAULT_SUITE, Case
from flashbench.studies.nothing import nothing_to_measure
from flashbench.studies.progress import Progress
from flashbench.studies.question import GRADIENTS, Question, questions
from flashbench.studies.untouched import Given
from flashbench.tolerances import ADDED_TO_NAIVE, Output, naive_unit, problem_tolerance

DEFAULT_ENGINES = ("flash", "standard")
# forward ok: o is exact, and the engine has no backward for it; where gradients alone are asked for, that is
# unsupported.
Verdict = Literal["ok", "forward ok", "wrong", "raised", "unsupported"]


class Deviation(Record, frozen=True):
    """How far one output is from the oracle, and how far it may be."""

    error: float | None  # largest absolute difference; None: NaN or an infinity is not where it should be
    tolerance: float
    # In float16 and bfloat16, beside lse: the error of a naive computation in the dtype (`naive_unit`).
    naive_error: float | None = None

    @property
    def naive_ratio(self) -> float | None:
        """The error, less what is allowed in any case, as a multiple of the naive computation's.

        None: it is not compared with one.
        """
        if self.naive_error is None:
            return None
        return math.inf if self.error is None else max(0.0, self.error - ADDED_TO_NAIVE) / self.naive_error

    @property
    def share(self) -> float:
        """The error as a share of the tolerance."""
        if not self.tolerance:
            return math.inf if self.error else 0.0
        return math.inf if self.error is None else self.error / self.tolerance


class CaseResult(Record, frozen=True):
    """One engine on one case."""

    case: str
    group: str
    problem: AttentionProblem
    block_q: int | None  # None: left to the engine
    block_k: int | None
    threads: int | None
    engine: str
    verdict: Verdict
    reason: str | None = None  # one line, unless the verdict is ok
    # Features of the problem that the engine does not have.
    lacks: list[Feature] = msgspec.field(default_factory=list)
    outputs: dict[Output, Deviation] = msgspec.field(default_factory=dict)  # of those that were computed

    @property
    def failed(self) -> bool:
        """Whether the engine is to blame."""
        return self.verdict in ("wrong", "raised")


class Verification(Record, frozen=True):
    """Every engine on every case, in the order run."""

    flashbench_version: str
    suite: str
    seconds: float
    results: list[CaseResult]
    options: list[str] = msgspec.field(
        default_factory=list
    )  # other words of the command line that say how a case is run

    def reproduce(self, result: CaseResult) -> str:
        """A shell command that runs just one of the results."""
        suite = [] if self.suite == DEFAULT_SUITE else ["--suite", self.suite]
        words = ["flashbench", "verify", *suite, "--engine", result.engine, "--case", result.case]
        return shlex.join([*words, *self.options])

    @property
    def exit_code(self) -> int:
        """1 when anything failed, or nothing was tried that could."""
        tried = any(result.verdict != "unsupported" for result in self.results)
        return 1 if any(result.failed for result in self.results) or not tried else 0


OnProgress = Callable[[Progress], None]
# Outputs, and which of a backward's o and lse it wrote to.
_Computed = tuple[list[tuple[Output, Any]], str | None]
# What every case takes, in pairs (query, key) of one head.
_PAIRS_OF_A_CALL = 10_000


def verify(
    engines: Sequence[str],
    cases: Sequence[Case],
    on_progress: OnProgress = lambda step: None,
    *,
    suite: str = DEFAULT_SUITE,
    options: Sequence[str] = (),
) -> Verification:
    """Run every case on every engine; `on_progress` is called before each case.

    suite: whose cases they are. options: words of a command line that asks for them to be run so.

    Raises EngineError when an engine is unknown or its library is missing, NothingToMeasureError when no
    engine supports any of the cases, both before anything runs.
    """
    chosen = {name: get_engine(name) for name in engines}
    results = []
    work = sum(work_of(case.problem) for case in cases)
    work_done, started = 0, time.monotonic()

    def wanted(case: Case) -> bool:
        return any(_refusal(engine, case) is None for engine in chosen.values())

    if not any(map(wanted, cases)):
        reasons = {(name, _refusal(engine, case)): None for name, engine in chosen.items() for case in cases}
        raise nothing_to_measure(reasons, what="verified")

    for done, (case, question) in enumerate(questions(cases, wanted)):
        elapsed = time.monotonic() - started
        # The first cases compile kernels, which says nothing of the others.
        left_s = elapsed / work_done * (work - work_done) if work_done > work / 50 else None
        on_progress(Progress(done, len(cases), case.name, left_s))
        work_done += work_of(case.problem)
        for name, engine in chosen.items():
            verdict, reason, outputs = try_case(engine, case, question)
            results.append(
                CaseResult(
                    case=case.name,
                    group=case.group,
                    problem=case.problem,
                    block_q=case.settings.block_q,
                    block_k=case.settings.block_k,
                    threads=case.settings.num_threads,
                    engine=name,
                    verdict=verdict,
                    reason=reason,
                    lacks=sorted(case.problem.features - engine.features),
                    outputs=outputs,
                )
            )
    return Verification(
        flashbench_version=version("flashbench"),
        suite=suite,
        seconds=time.monotonic() - started,
        results=results,
        options=list(options),
    )


def work_of(problem: AttentionProblem) -> int:
    """About in proportion to the time that a case takes, most of which the oracle does."""
    pairs = sum(count * seqlen_q * seqlen_k for (seqlen_q, seqlen_k), count in problem.length_counts.items())
    return problem.num_heads * pairs + _PAIRS_OF_A_CALL


def _refusal(engine: Engine, case: Case) -> str | None:
    """Why the engine computes nothing of what the case asks for, or None."""
    needed: tuple[Direction, ...] = ("fwd",) if case.forward else ("fwd", "bwd")
    reasons = (refusal(engine, case.problem, direction) for direction in needed)
    return next((reason for reason in reasons if reason is not None), None)


def try_case(
    engine: Engine, case: Case, question: Question
) -> tuple[Verdict, str | None, dict[Output, Deviation]]:
    """What the engine makes of the case, forward and then backward, up to the first failure."""
    deviations: dict[Output, Deviation] = {}
    if reason := _refusal(engine, case):
        return "unsupported", reason, deviations
    ways: list[tuple[Direction, Callable[..., _Computed]]] = [("fwd", _forward)]
    if case.backward:
        ways.append(("bwd", _backward))
    for direction, compute in ways:
        unsupported: Verdict = "forward ok" if deviations and case.forward else "unsupported"
        if reason := refusal(engine, case.problem, direction):
            return unsupported, reason, deviations
        try:
            outputs, spoiled = compute(engine, case, question)
        except UnsupportedError as error:
            return unsupported, str(error), deviations
        except Exception as error:  # whatever it is, it is the engine's failure, not ours
            first_line = str(error).partition("\n")[0]
            return "raised", f"raised {type(error).__name__}: {first_line}", deviations
        finally:
            changed = question.restore()
        if changed or spoiled:  # before what it returned, which may be right of what it changed
            return "wrong", f"changed its input {changed or spoiled}", deviations
        for name, actual in outputs:
            wrong = name in question.answers and _compare(case, name, actual, question, deviations)
            if wrong:
                return "wrong", wrong, deviations
    return "ok", None, deviations


def _forward(engine: Engine, case: Case, question: Question) -> _Computed:
    q, k, v, _ = question.inputs
    forward = engine.forward(case.problem, case.settings, q, k, v, extras=question.extras)
    lse: list[tuple[Output, Any]] = [] if forward.lse is None else [("lse", forward.lse)]
    return [("o", forward.o), *lse], None


def _backward(engine: Engine, case: Case, question: Question) -> _Computed:
    """Gradients from what the forward kept for them, and from o and lse alone."""
    problem, settings, extras, (q, k, v, do) = case.problem, case.settings, question.extras, question.inputs
    kept = engine.forward(problem, settings, q, k, v, extras=extras, keep=True)
    given = Given(kept)
    outputs: list[tuple[Output, Any]] = []
    for way in [kept] if kept.saved is None else [kept, Forward(kept.o, kept.lse)]:
        gradients = engine.backward(
            problem, settings, do, q, k, v, way, extras=extras, mask_gradient=problem.mask == "float"
        )
        outputs += zip(GRADIENTS, (*gradients, gradients.dsinks, gradients.dmask), strict=True)
    return outputs, given.changed()


def outputs_of(engine: Engine, case: Case, question: Question) -> list[tuple[Output, Any]]:
    """All that the engine computes of a case: of two ways to a gradient, both."""
    found, _ = _forward(engine, case, question)
    if case.backward and refusal(engine, case.problem, "bwd") is None:
        gradients, _ = _backward(engine, case, question)
        found = [*found, *gradients]
    return found


def _compare(
    case: Case,
    name: Output,
    actual: Any,
    question: Question,
    deviations: dict[Output, Deviation],
) -> str | None:
    """Note how far an output is off, and say what is wrong with it, if anything."""
    problem, expected = case.problem, question.answers[name]
    if not isinstance(actual, np.ndarray):
        return f"{name} is of type {type(actual).__name__}, not an array"
    entry = entry_of_output(problem.dtype, name)
    if actual.shape != expected.shape or actual.dtype != entry.storage:
        return f"{name} is {actual.dtype} {actual.shape}, not {entry.storage} {expected.shape}"
    naive, largest_lse = question.naive.get(name), question.largest_lse
    tolerance = problem_tolerance(problem, name, sizes=case.sizes, largest_lse=largest_lse, naive=naive)
    unit = naive and naive_unit(problem, name, naive, sizes=case.sizes, largest_lse=largest_lse)
    actual, expected = question.folded(name, entry.view(actual)), question.folded(name, expected)
    if is_half(problem.dtype):
        actual, expected = _in_range(entry, actual, expected, tolerance)
    error = largest_error(actual, expected)
    deviation = Deviation(
        error=error if math.isfinite(error) else None,
        tolerance=tolerance,
        naive_error=unit,
    )
    if name not in deviations or deviation.share > deviations[name].share:
        deviations[name] = deviation
    if error <= tolerance:
        return None
    place = worst_place(actual, expected)
    got, wanted = float(actual[place]), float(expected[place])
    if not math.isfinite(error):
        return f"{name}{list(place)} is {got:.6g}, and the oracle's is {wanted:.6g}"
    return (
        f"{name}{list(place)} is off by {error:.2g} from the oracle's {wanted:.6g}: more than {tolerance:.2g}"
    )


def _in_range(entry: DtypeEntry, actual: Array, expected: Array, tolerance: float) -> tuple[Array, Array]:
    """Both without numbers beyond the dtype's largest: where the answer is larger, infinity is right too."""
    beyond = np.isinf(actual) & np.isfinite(expected) & (np.abs(expected) + tolerance > entry.largest)
    actual = np.where(beyond, np.copysign(entry.largest, expected), actual)
    clipped = np.clip(expected, -entry.largest, entry.largest)
    return actual, np.where(np.isfinite(expected), clipped, expected)
