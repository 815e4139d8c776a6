"""Sorts the failed cases of `verify` by what is wrong, and finds the smallest case for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flashbench.dtypes import DTYPES, entry_of_output
from flashbench.engines import Array, Engine, get_engine
from flashbench.reference import worst_place
from flashbench.studies.audit import probes
from flashbench.studies.audit.findings import Explanation, Finding
from flashbench.studies.audit.readings import Reading, readings
from flashbench.studies.audit.script import script_of
from flashbench.studies.audit.shrink import shrunk
from flashbench.studies.cases import Case
from flashbench.studies.progress import Progress
from flashbench.studies.question import Question
from flashbench.studies.verify import Verification, outputs_of, try_case, work_of
from flashbench.tolerances import Output, problem_tolerance

_MOST_SECONDS = 120.0  # of one engine; cases that are left are not explained
_MOST_SECONDS_A_FINDING = 20.0  # to make its case smaller
OnProgress = Callable[[Progress], None]


class _Failed(NamedTuple):
    case: Case
    verdict: str
    reason: str


def audit(
    verification: Verification, cases: Sequence[Case], on_progress: OnProgress = lambda step: None
) -> list[Finding]:
    """The findings of every engine that failed, in the order of the engines.

    Small cases are explained first. A case is not explained again if it fails in the same group as one that
    was explained twice already: it counts as that.
    """
    by_name = {case.name: case for case in cases}
    engines = dict.fromkeys(result.engine for result in verification.results if result.failed)
    found = []
    for name in engines:
        failed = [
            _Failed(by_name[result.case], result.verdict, result.reason or "")
            for result in verification.results
            if result.engine == name and result.failed
        ]
        found += _of_engine(get_engine(name), failed, on_progress)
    return found


def _of_engine(engine: Engine, failed: list[_Failed], on_progress: OnProgress) -> list[Finding]:
    until = time.monotonic() + _MOST_SECONDS
    groups: dict[Explanation, list[_Failed]] = {}
    failed = sorted(failed, key=lambda each: work_of(each.case.problem))
    for done, each in enumerate(failed):
        on_progress(Progress(done, len(failed), f"{engine.name}: why {each.case.name} fails", None))
        if time.monotonic() > until:
            break
        explanation = _explained(engine, each.case) or Explanation("unsteady", "right when it ran again")
        groups.setdefault(explanation, []).append(each)
    return [_finding(engine, explanation, alike) for explanation, alike in groups.items()]


def _finding(engine: Engine, explanation: Explanation, alike: list[_Failed]) -> Finding:
    first = alike[0].case

    until = time.monotonic() + _MOST_SECONDS_A_FINDING

    def fails(case: Case) -> bool:
        if time.monotonic() > until:
            return False
        try:
            return explain(engine, case) == explanation
        except Exception:  # a change of the case's inputs may not fit a smaller one
            return False

    case = first if explanation.kind == "unsteady" else shrunk(first, fails)
    _, reason, _ = try_case(engine, case, Question(case))
    return Finding(
        engine=engine.name,
        kind=explanation.kind,
        subject=explanation.subject,
        cases=len(alike),
        case=first.name,
        problem=case.problem,
        reason=reason or alike[0].reason,
        script=script_of(engine, case, explanation),
    )


def _explained(engine: Engine, case: Case) -> Explanation | None:
    """`explain` of an engine that may raise at any call, and not at every one."""
    try:
        return explain(engine, case)
    except Exception as error:
        return Explanation("unsteady", f"{type(error).__name__} when it ran again")


def explain(engine: Engine, case: Case) -> Explanation | None:
    """What is wrong with the engine's results of this case; None: nothing. Raises what the engine raises."""
    question = Question(case)
    verdict, reason, _ = try_case(engine, case, question)
    if verdict not in ("wrong", "raised"):
        return None
    if verdict == "raised":
        return Explanation("raises", (reason or "").removeprefix("raised ").partition(":")[0])
    if reason is not None and reason.startswith("changed its input"):
        return Explanation("malformed", reason)
    question = Question(case)
    question.answer()  # before the engine sees the inputs
    actual: dict[Output, Any] = {}
    wrong: list[Output] = []
    malformed = ""
    for name, x in outputs_of(engine, case, question):
        if name not in question.answers:
            continue
        if _is_malformed(case, question, name, x):  # or missing, as dsinks is if sinks are ignored
            malformed = malformed or f"{name} has another type, dtype or shape"
            continue
        if _is_wrong(case, question, name, x) and name not in wrong:
            wrong.append(name)
            actual[name] = x
        actual.setdefault(name, x)
    for reading in readings(case.problem, question.extras) if wrong else ():
        if _answers(case, reading, question, actual, wrong):
            return reading.explanation
    if malformed:
        return Explanation("malformed", malformed)
    if not wrong:
        return Explanation("unsteady", "right when it ran again")
    name = wrong[0]
    values = question.folded(name, _numbers(case, name, actual[name]))
    right = question.folded(name, question.answers[name])
    place = worst_place(values, right)
    given = [DTYPES[case.problem.dtype].view(x).astype(np.float64) for x in question.inputs]
    if not all(np.isfinite(x).all() for x in given) and np.isfinite(values[place]) != np.isfinite(
        right[place]
    ):
        return Explanation("loses NaN" if np.isfinite(values[place]) else "spreads NaN")
    if name in ("o", "lse") and question.answers["lse"][place[:3]] == -np.inf:
        return Explanation("unseeing rows", name)
    if name == "o":
        return _of_values(engine, case, question, place, values)
    return Explanation("inaccurate", name)


def _of_values(
    engine: Engine, case: Case, question: Question, place: tuple[int, ...], values: Array
) -> Explanation:
    problem, inputs, extras = case.problem, question.inputs, question.extras
    tolerance = _tolerance(case, question, "o")
    if problem.page_size is None and probes.leaks(
        engine, problem, case.settings, inputs, extras, place, tolerance
    ):
        return Explanation("leaks", "hidden keys")
    if probes.saturates(engine, problem):
        return Explanation("saturates", "sums over keys")
    expected = question.answers["o"]
    narrow = probes.narrow_dtype(problem, inputs, extras, values, expected)
    return Explanation("inaccurate", "o") if narrow is None else Explanation("narrow arithmetic", narrow)


def _numbers(case: Case, name: Output, x: Any) -> Array:
    """An output in float64."""
    entry = DTYPES[case.problem.dtype]
    is_stored = isinstance(x, np.ndarray) and x.dtype == entry.storage
    return np.asarray(entry.view(x) if is_stored else x, np.float64)


def _tolerance(case: Case, question: Question, name: Output) -> float:
    naive = question.naive.get(name)
    return problem_tolerance(
        case.problem, name, sizes=case.sizes, largest_lse=question.largest_lse, naive=naive
    )


def _differs(case: Case, question: Question, name: Output, x: Any, expected: Array) -> bool:
    values = question.folded(name, _numbers(case, name, x))
    expected = question.folded(name, expected)
    if values.shape != expected.shape:
        return True
    same = (values == expected) | (np.isnan(values) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        return bool((~same & ~(np.abs(values - expected) <= _tolerance(case, question, name))).any())


def _is_wrong(case: Case, question: Question, name: Output, x: Any) -> bool:
    return _differs(case, question, name, x, question.answers[name])


def _is_malformed(case: Case, question: Question, name: Output, x: Any) -> bool:
    wanted = entry_of_output(case.problem.dtype, name).storage
    return not (isinstance(x, np.ndarray) and x.dtype == wanted and x.shape == question.answers[name].shape)


def _answers(
    case: Case, reading: Reading, question: Question, actual: dict[Output, Any], wrong: Iterable[Output]
) -> bool:
    """Whether every wrong output is the right one of this reading.

    NaN alone says nothing: numbers of both have to differ somewhere.
    """
    other = Question(case._replace(problem=reading.problem))
    other.inputs, other.extras = question.inputs, reading.extras
    differs = False
    for name in wrong:
        if name not in other.answers:
            return False
        theirs, ours = other.answers[name], question.answers[name]
        if _differs(case, question, name, actual[name], theirs):
            return False
        with np.errstate(invalid="ignore"):
            apart = np.abs(theirs - ours)
        differs |= bool((np.isfinite(apart) & (apart > _tolerance(case, question, name))).any())
    return differs
