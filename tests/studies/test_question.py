"""A case's inputs and answers: one memory for all engines, made again after a write; answers run ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from flashbench.studies import question as module
from flashbench.studies.cases import choose_cases
from flashbench.studies.question import Question, questions


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_inputs_are_made_anew_when_an_engine_wrote_to_one() -> None:
    (case,) = choose_cases(["pair-alibi-sinks-float64"])
    question = Question(case)
    first = question.inputs
    assert question.restore() is None
    assert question.inputs is first
    first.v[0, 0, 0, 0] += 1
    assert question.restore() == "v"
    assert np.array_equal(question.inputs.v, case.make_inputs().v)
    question.extras.sinks[0] += 1
    assert question.restore() == "sinks"
    assert question.restore() is None


def test_a_nan_that_was_there_before_is_no_change() -> None:
    (case,) = choose_cases(["nan-in-k-window-float64"])
    assert Question(case).restore() is None


def test_cases_that_differ_in_their_settings_alone_share_their_question() -> None:
    cases = choose_cases(["blocks-1x1-float64", "blocks-2x2-float64", "square-2"])
    pairs = list(questions(cases, wanted=lambda case: True))
    assert [case for case, _ in pairs] == cases
    shared = [question for case, question in pairs if case.group == "blocks"]
    assert shared[0] is shared[1]
    assert len({id(question) for _, question in pairs}) == 5


def test_the_oracle_answers_what_is_wanted_in_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, str | None]] = []
    threads: set[threading.Thread] = set()
    oracle = module.attention_reference

    def watched(problem, *arguments, rounded_to):
        asked.append((problem.seqlen_q, problem.dtype, rounded_to))
        threads.add(threading.current_thread())
        assert blas_threads() == {1}
        return oracle(problem, *arguments, rounded_to=rounded_to)

    monkeypatch.setattr(module, "attention_reference", watched)
    words = [f"square-{length}-{dtype}" for length in (1, 2, 5) for dtype in ("bfloat16", "float64")]
    cases = choose_cases(words)
    before = blas_threads()
    for case, question in questions(cases, wanted=lambda case: case.problem.seqlen_q != 2):
        assert ("answers" in vars(question)) == (case.problem.seqlen_q != 2)
    assert asked == [
        *((length, "bfloat16", rounded_to) for length in (1, 5) for rounded_to in (None, "bfloat16")),
        *((length, "float64", None) for length in (1, 5)),
    ]
    assert threading.current_thread() not in threads
    assert blas_threads() == before


def test_what_the_oracle_raises_is_raised_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(module, "attention_reference", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(questions(choose_cases(["square-1"]), wanted=lambda case: True))
