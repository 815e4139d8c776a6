"""The attention workload that a worker measures: one engine on one problem in one direction."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from flashbench.dtypes import Dtype, entry_of_output, is_half
from flashbench.engines import Array, Engine, Forward, Layout, Settings, get_engine, path_taken, refusal
from flashbench.errors import UnsupportedError
from flashbench.extras import Extras, make_extras
from flashbench.problem import AttentionProblem, Direction, Inputs
from flashbench.reference import (
    HeadGroup,
    attention_backward_reference,
    attention_reference,
    head_group,
    largest_error,
    largest_finite,
)
from flashbench.studies.study import Point
from flashbench.studies.untouched import Given, changed, is_same
from flashbench.tolerances import Naive, Output, problem_tolerance

FACTORY = "flashbench.studies.workload:build"
# Above this many operations the oracle would take longer than everything else: check a sample.
SAMPLE_ABOVE_FLOPS = 30_000_000_000
SAMPLED_GROUPS = 2
# Each takes the oracle some tenths of a millisecond, however small it is.
MOST_GROUPS = 4096
CACHE_LINE = 64


class Checked(NamedTuple):
    """What a check found. `wrong` says in one line what is wrong, None when nothing is."""

    max_abs_error: float | None  # over o or dq, dk, dv; None: not a finite number
    tolerance: float
    rows_checked: int
    wrong: str | None


def arguments(point: Point, seed: int, *, keep_scratch: bool = True) -> dict[str, Any]:
    """What `build` needs to make this point's workload in another process.

    keep_scratch=False where memory is to be measured: what an arena kept would not be seen again.
    """
    return {
        "problem": msgspec.to_builtins(point.problem),
        "engine": point.engine,
        "direction": point.direction,
        "settings": point.settings._replace(keep_scratch=keep_scratch).arguments(),
        "seed": seed,
    }


def build(
    problem: dict[str, Any], engine: str, direction: Direction, settings: dict[str, Any], seed: int
) -> AttentionWorkload:
    """The workload of `arguments`. Raises UnsupportedError when the engine cannot run it."""
    return AttentionWorkload(
        get_engine(engine),
        msgspec.convert(problem, AttentionProblem),
        direction,
        Settings(**settings),
        seed,
    )


def placed(x: Array, layout: Layout) -> Array:
    """A 4-D (batch, heads, seqlen, head_dim) view of a copy in that order in memory, from a cache line on.

    NumPy aligns arrays to 16 bytes, and where one begins is chance, differing from process to process: with
    v across cache lines each of its vectors takes two reads, which slows the whole call. PyTorch and ONNX
    Runtime begin theirs at 64 bytes; so do measurements, for every engine alike.
    """
    ordered = x if layout == "bhsd" else x.swapaxes(1, 2)
    copy = _aligned(ordered)
    return copy if layout == "bhsd" else copy.swapaxes(1, 2)


def placed_extras(problem: AttentionProblem, extras: Extras) -> Extras:
    """The same for a mask and for sinks; a mask's order is (batch, heads, queries, keys) for every engine.

    It stays a view of what is its own: broadcast axes are not copied.
    """
    mask, sinks = extras.mask, extras.sinks
    if isinstance(mask, np.ndarray):
        own = mask[tuple(slice(size) for size in problem.mask_shape)]
        mask = np.broadcast_to(_aligned(own), mask.shape)
    return extras._replace(mask=mask, sinks=None if sinks is None else _aligned(sinks))


def _aligned(x: NDArray[Any]) -> NDArray[Any]:
    buffer = np.empty(x.nbytes + CACHE_LINE, np.uint8)
    start = -buffer.__array_interface__["data"][0] % CACHE_LINE
    copy = buffer[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


class AttentionWorkload:
    """Calls an engine on inputs of its own and keeps the outputs of the last call."""

    def __init__(
        self, engine: Engine, problem: AttentionProblem, direction: Direction, settings: Settings, seed: int
    ) -> None:
        reason = refusal(engine, problem, direction)
        if reason is not None:
            raise UnsupportedError(reason)
        self._engine, self._problem, self._direction, self._settings = engine, problem, direction, settings
        self._seed = seed
        self._inputs = Inputs(*(placed(x, engine.layout) for x in problem.make_inputs(seed)))
        self._extras = placed_extras(problem, make_extras(problem, seed))
        self._outputs: dict[Output, Any] = {}
        # The backward alone is measured with what a training step has at hand by then.
        self._forward: Forward | None = None
        self._given: Given | None = None
        if direction == "bwd":
            self._forward = self._run_forward(keep=True)
            self._given = Given(self._forward)

    def call(self) -> None:
        """The forward, the backward, or one after the other."""
        self.forget()  # first, so that this call may have their memory, as in a program that drops them
        forward = self._forward
        if forward is None:
            forward = self._run_forward(keep=self._direction == "fwd_bwd")
            self._outputs["o"] = forward.o
            if forward.lse is not None:
                self._outputs["lse"] = forward.lse
        if self._direction != "fwd":
            q, k, v, do = self._inputs
            gradients = self._engine.backward(
                self._problem, self._settings, do, q, k, v, forward, extras=self._extras
            )
            dq, dk, dv = gradients
            self._outputs.update({"dq": dq, "dk": dk, "dv": dv})
            if self._problem.sinks and gradients.dsinks is not None:
                self._outputs["dsinks"] = gradients.dsinks

    def _run_forward(self, *, keep: bool) -> Forward:
        q, k, v, _ = self._inputs
        return self._engine.forward(self._problem, self._settings, q, k, v, extras=self._extras, keep=keep)

    def forget(self) -> None:
        """Drop the outputs of the last call."""
        self._outputs = {}

    def describe(self) -> dict[str, Any]:
        """How many bytes the last call returned, its block sizes and path, and which kernel it ran."""
        ran = self._engine.kernel(self._problem, self._direction)
        return {
            "output_bytes": sum(x.nbytes for x in self._outputs.values()),
            "blocks": self._engine.blocks(self._problem, self._direction, self._settings),
            "path": path_taken(self._engine, self._problem, self._direction, self._settings),
            "kernel": None if ran is None else ran.kernel,
            "note": None if ran is None else ran.note,
        }

    def check(self) -> dict[str, Any]:
        """Compare the outputs of the last call with the float64 oracle (see `Checked`).

        The oracle has inputs of its own, which no engine has seen: one that writes to its inputs would else
        be judged by another question than it was asked. That it does so is wrong whatever it returns. A
        head's dsinks, to which every sequence adds, is compared where all of them were.
        """
        inputs, extras, spoiled = self._as_made()
        errors = dict.fromkeys(self._outputs, 0.0)
        naive: dict[Output, Naive] = {}
        dsinks, naive_dsinks = (np.zeros(self._problem.num_heads) for _ in range(2))
        rows, largest_lse = 0, 0.0
        groups = self._sample()
        for batch, kv_head in groups:
            part = head_group(self._problem, batch, kv_head)
            expected = self._expected(part, inputs, extras)
            rows += self._heads_per_key * self._problem.sequence(batch).seqlen_q
            if "lse" in expected:
                largest_lse = max(largest_lse, largest_finite(expected["lse"]))
            dsinks[part.queries[1]] += expected.pop("dsinks", 0.0)
            for name in expected.keys() & errors.keys():
                actual = self._outputs[name][part.keys if name in ("dk", "dv") else part.queries]
                actual = entry_of_output(self._problem.dtype, name).view(actual)
                errors[name] = max(errors[name], largest_error(actual, expected[name]))
            if is_half(self._problem.dtype):
                in_dtype = self._expected(part, inputs, extras, rounded_to=self._problem.dtype)
                naive_dsinks[part.queries[1]] += in_dtype.pop("dsinks", 0.0)
                for name in in_dtype.keys() & expected.keys():
                    naive[name] = _larger(naive.get(name), in_dtype[name], expected[name])
        if "dsinks" in errors:
            heads = self._heads_of_every_sequence(groups)
            errors["dsinks"] = largest_error(self._outputs["dsinks"][heads], dsinks[heads])
            naive["dsinks"] = _larger(None, naive_dsinks[heads], dsinks[heads])
        tolerances = {name: self._tolerance(name, largest_lse, naive.get(name)) for name in errors}
        compared = [name for name in errors if name not in ("lse", "dsinks")]
        largest = max(errors[name] for name in compared)
        # Errors of a wide dtype are compared with one number. Of a 16-bit one each output has its own.
        tolerance = (
            max(tolerances[name] for name in compared)
            if is_half(self._problem.dtype)
            else self._tolerance(self._direction, largest_lse)
        )
        return Checked(
            max_abs_error=largest if math.isfinite(largest) else None,
            tolerance=tolerance,
            rows_checked=rows,
            wrong=f"changed its input {spoiled}" if spoiled else self._verdict(errors, tolerances),
        )._asdict()

    @property
    def _heads_per_key(self) -> int:
        return self._problem.num_heads // self._problem.num_kv_heads

    def _sample(self) -> list[tuple[int, int]]:
        """(batch, kv_head) of the groups of heads to check: all, or some from the first to the last."""
        heads = self._problem.num_kv_heads
        groups = self._problem.batch * heads
        long = self._problem.flops(self._direction) > SAMPLE_ABOVE_FLOPS
        most = SAMPLED_GROUPS if long else MOST_GROUPS
        if groups <= most:
            return [divmod(place, heads) for place in range(groups)]
        return [divmod(place * (groups - 1) // (most - 1), heads) for place in range(most)]

    def _heads_of_every_sequence(self, groups: list[tuple[int, int]]) -> list[int]:
        count = Counter(kv_head for _, kv_head in groups)
        size = self._heads_per_key
        return [h for h in range(self._problem.num_heads) if count[h // size] == self._problem.batch]

    def _as_made(self) -> tuple[Inputs, Extras, str | None]:
        """Inputs and extras as they were before the first call, and the name of one that has changed.

        One after the other: what is still the same is used itself, so that no second copy of all is held.
        """
        spoiled = None if self._given is None else self._given.changed()
        inputs = []
        for name, now, before in zip(
            Inputs._fields, self._inputs, self._problem.each_input(self._seed), strict=True
        ):
            same = is_same(now, before)
            inputs.append(now if same else before)
            spoiled = spoiled or (None if same else name)
        extras = make_extras(self._problem, self._seed)
        return Inputs(*inputs), extras, spoiled or changed(self._extras, extras)

    def _expected(
        self, part: HeadGroup, inputs: Inputs, extras: Extras, *, rounded_to: Dtype | None = None
    ) -> dict[Output, Any]:
        """What the outputs should be there; also lse where tolerances depend on it.

        rounded_to: what the naive computation in this dtype gives.
        """
        expected: dict[Output, Any] = {}
        q, do = inputs.q[part.queries], inputs.do[part.queries]
        k, v = inputs.k[part.keys], inputs.v[part.keys]
        if "o" in self._outputs or self._problem.alibi:
            o, lse = attention_reference(
                part.problem, q, k, v, extras, origin=part.origin, rounded_to=rounded_to
            )
            expected.update({"o": o, "lse": lse})
        if "dq" in self._outputs:
            gradients = attention_backward_reference(
                part.problem, do, q, k, v, extras, origin=part.origin, rounded_to=rounded_to
            )
            dq, dk, dv = gradients
            expected.update({"dq": dq, "dk": dk, "dv": dv})
            if gradients.dsinks is not None:
                expected["dsinks"] = gradients.dsinks
        return expected

    def _tolerance(self, what: Output | Direction, largest_lse: float, naive: Naive | None = None) -> float:
        return problem_tolerance(self._problem, what, largest_lse=largest_lse, naive=naive)

    def _verdict(self, errors: dict[Output, float], tolerances: dict[Output, float]) -> str | None:
        if self._problem.sinks and "dq" in errors and "dsinks" not in errors:
            return "dsinks is missing"
        for name, error in errors.items():
            tolerance = tolerances[name]
            if not math.isfinite(error):
                return f"{name} has NaN or infinity where the float64 oracle has a number"
            if error > tolerance:
                return (
                    f"{name} is off the float64 oracle by {error:.2g}, more than rounding's {tolerance:.2g}"
                )
        return None


def _larger(before: Naive | None, naive: Array, expected: Array) -> Naive:
    """The larger numbers of the naive computation before, and of this part of an output."""
    error, largest = largest_error(naive, expected), largest_finite(expected)
    return (
        Naive(error, largest)
        if before is None
        else Naive(max(before.error, error), max(before.largest, largest))
    )
