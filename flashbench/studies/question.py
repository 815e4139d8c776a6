"""The inputs of a case and the oracle's answers, made once for all engines and ahead of time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np
from threadpoolctl import ThreadpoolController

from flashbench.dtypes import Dtype, is_half
from flashbench.engines import Array
from flashbench.extras import Extras
from flashbench.problem import Inputs
from flashbench.reference import (
    attention_backward_reference,
    attention_reference,
    largest_error,
    largest_finite,
)
from flashbench.studies.cases import Case
from flashbench.studies.untouched import changed
from flashbench.tolerances import Naive, Output

_AHEAD = 2  # questions whose answers are computed in advance

GRADIENTS: tuple[Output, ...] = ("dq", "dk", "dv", "dsinks", "dmask")


class Question:
    """A case's inputs and extras, which engines must not write to, and the right outputs."""

    def __init__(self, case: Case) -> None:
        self._case = case

    @cached_property
    def inputs(self) -> Inputs:
        """The same memory for all."""
        return self._case.make_inputs()

    @cached_property
    def extras(self) -> Extras:
        """The same memory for all."""
        return self._case.make_extras()

    @cached_property
    def answers(self) -> dict[Output, Array]:
        """The oracle's, in float64; with gradients if the case asks for them."""
        return self._computed(None)

    def _computed(self, rounded_to: Dtype | None) -> dict[Output, Array]:
        problem, extras = self._case.problem, self.extras
        q, k, v, do = self.inputs
        o, lse = attention_reference(problem, q, k, v, extras, rounded_to=rounded_to)
        answers: dict[Output, Array] = {"o": o, "lse": lse}
        if self._case.backward:
            gradients = attention_backward_reference(problem, do, q, k, v, extras, rounded_to=rounded_to)
            named = zip(GRADIENTS, (*gradients, gradients.dsinks, gradients.dmask), strict=True)
            answers |= {name: gradient for name, gradient in named if gradient is not None}
        return answers

    @cached_property
    def naive(self) -> dict[Output, Naive]:
        """What the naive computation in a 16-bit dtype makes of each output but lse. Wide dtypes: empty."""
        dtype = self._case.problem.dtype
        if not is_half(dtype):
            return {}
        found: dict[Output, Naive] = {}
        for name, actual in self._computed(dtype).items():
            if name != "lse":
                expected = self.folded(name, self.answers[name])
                error = largest_error(self.folded(name, actual), expected)
                found[name] = Naive(error, largest_finite(expected))
        return found

    def folded(self, name: Output, x: Array) -> Array:
        """An output as it is compared.

        With infinite inputs, whether a sum is infinite or NaN depends on the order of adding: both are NaN.
        But not the -inf of lse, which says that a row sees no key.
        """
        if not self._case.infinite:
            return x
        return np.where(np.isposinf(x) if name == "lse" else np.isinf(x), np.nan, x)

    def answer(self) -> None:
        """Compute the answers now."""
        _ = self.answers, self.naive

    @cached_property
    def largest_lse(self) -> float:
        """The largest finite |lse|; some tolerances grow with it."""
        lse = self.answers["lse"]
        return float(np.max(np.abs(lse), where=np.isfinite(lse), initial=0.0))

    @cached_property
    def _untouched(self) -> tuple[Inputs, Extras]:
        return self._case.make_inputs(), self._case.make_extras()

    def restore(self) -> str | None:
        """Make the inputs again if any was changed, and return its name, or None."""
        inputs, extras = self._untouched
        name = changed(self.inputs, inputs) or changed(self.extras, extras)
        if name is not None:
            del self.inputs, self.extras
        return name


def questions(cases: Sequence[Case], wanted: Callable[[Case], bool]) -> Iterator[tuple[Case, Question]]:
    """Each case with its question; neighbours that differ only in settings share one object.

    wanted: the cases whose answers the oracle computes while the caller works on earlier ones. It runs on one
    core, which is faster than several for small products.
    """
    limited = ThreadpoolController().limit(limits=1, user_api="blas")
    with limited, ThreadPoolExecutor(max_workers=1) as oracle:
        ahead: deque[tuple[list[Case], Question, Future[None] | None]] = deque()
        for _, alike in itertools.groupby(cases, key=lambda case: case.question):
            group = list(alike)
            question = Question(group[0])
            answered = oracle.submit(question.answer) if any(map(wanted, group)) else None
            ahead.append((group, question, answered))
            if len(ahead) > _AHEAD:
                yield from _each(*ahead.popleft())
        while ahead:
            yield from _each(*ahead.popleft())


def _each(
    group: Sequence[Case], question: Question, answered: Future[None] | None
) -> Iterator[tuple[Case, Question]]:
    if answered is not None:
        answered.result()
    for case in group:
        yield case, question
