"""The attention workload that a worker measures: one engine on one problem in one direction."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flashbench.engines import Array, Engine, Forward, Layout, Settings, get_engine, refusal
from flashbench.errors import UnsupportedError
from flashbench.problem import AttentionProblem, Direction, Inputs
from flashbench.reference import attention_backward_reference, attention_reference, head_group, largest_error
from flashbench.studies.study import Point
from flashbench.tolerances import Output, tolerance_for

FACTORY = "flashbench.studies.workload:build"
# Above this many operations the oracle would take longer than everything else: check a sample.
SAMPLE_ABOVE_FLOPS = 30_000_000_000
SAMPLED_GROUPS = 2
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
        "settings": point.settings._replace(keep_scratch=keep_scratch)._asdict(),
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
    buffer = np.empty(ordered.nbytes + CACHE_LINE, np.uint8)
    start = -buffer.__array_interface__["data"][0] % CACHE_LINE
    copy = buffer[start : start + ordered.nbytes].view(x.dtype).reshape(ordered.shape)
    copy[...] = ordered
    return copy if layout == "bhsd" else copy.swapaxes(1, 2)


class AttentionWorkload:
    """Calls an engine on inputs of its own and keeps the outputs of the last call."""

    def __init__(
        self, engine: Engine, problem: AttentionProblem, direction: Direction, settings: Settings, seed: int
    ) -> None:
        reason = refusal(engine, problem, direction)
        if reason is not None:
            raise UnsupportedError(reason)
        self._engine, self._problem, self._direction, self._settings = engine, problem, direction, settings
        self._inputs = Inputs(*(placed(x, engine.layout) for x in problem.make_inputs(seed)))
        self._outputs: dict[Output, Any] = {}
        q, k, v, _ = self._inputs
        # The backward alone is measured with what a training step has at hand by then.
        self._forward: Forward | None = None
        if direction == "bwd":
            self._forward = engine.forward(problem, settings, q, k, v, keep=True)

    def call(self) -> None:
        """The forward, the backward, or one after the other."""
        self.forget()  # first, so that this call may have their memory, as in a program that drops them
        q, k, v, do = self._inputs
        forward = self._forward
        if forward is None:
            keep = self._direction == "fwd_bwd"
            forward = self._engine.forward(self._problem, self._settings, q, k, v, keep=keep)
            self._outputs["o"] = forward.o
            if forward.lse is not None:
                self._outputs["lse"] = forward.lse
        if self._direction != "fwd":
            dq, dk, dv = self._engine.backward(self._problem, self._settings, do, q, k, v, forward)
            self._outputs.update({"dq": dq, "dk": dk, "dv": dv})

    def forget(self) -> None:
        """Drop the outputs of the last call."""
        self._outputs = {}

    def describe(self) -> dict[str, Any]:
        """How many bytes the last call returned, its block sizes, and which kernel it ran."""
        ran = self._engine.kernel(self._problem, self._direction)
        return {
            "output_bytes": sum(x.nbytes for x in self._outputs.values()),
            "blocks": self._engine.blocks(self._problem, self._direction, self._settings),
            "kernel": None if ran is None else ran.kernel,
            "note": None if ran is None else ran.note,
        }

    def check(self) -> dict[str, Any]:
        """Compare the outputs of the last call with the float64 oracle (see `Checked`)."""
        errors = dict.fromkeys(self._outputs, 0.0)
        groups = self._sample()
        for batch, kv_head in groups:
            part, queries, keys, _ = head_group(self._problem, batch, kv_head)
            inputs = Inputs(
                *(x[keys if name in ("k", "v") else queries] for name, x in self._inputs._asdict().items())
            )
            for name, expected in self._expected(part, inputs).items():
                actual = self._outputs[name][keys if name in ("dk", "dv") else queries]
                errors[name] = max(errors[name], largest_error(actual, expected))
        tolerance = self._tolerance(self._direction)
        largest = max(error for name, error in errors.items() if name != "lse")
        return Checked(
            max_abs_error=largest if math.isfinite(largest) else None,
            tolerance=tolerance,
            rows_checked=len(groups) * self._heads_per_key * self._problem.seqlen_q,
            wrong=self._verdict(errors),
        )._asdict()

    @property
    def _heads_per_key(self) -> int:
        return self._problem.num_heads // self._problem.num_kv_heads

    def _sample(self) -> list[tuple[int, int]]:
        """(batch, kv_head) of the groups of heads to check: all, or the first and the last."""
        groups = list(np.ndindex(self._problem.batch, self._problem.num_kv_heads))
        if self._problem.flops(self._direction) > SAMPLE_ABOVE_FLOPS and len(groups) > SAMPLED_GROUPS:
            groups = [groups[0], groups[-1]]
        return [(batch, kv_head) for batch, kv_head in groups]

    def _expected(self, part: AttentionProblem, inputs: Inputs) -> dict[Output, Any]:
        expected: dict[Output, Any] = {}
        q, k, v, do = inputs
        if "o" in self._outputs:
            o, lse = attention_reference(part, q, k, v)
            expected["o"] = o
            if "lse" in self._outputs:
                expected["lse"] = lse
        if "dq" in self._outputs:
            dq, dk, dv = attention_backward_reference(part, do, q, k, v)
            expected.update({"dq": dq, "dk": dk, "dv": dv})
        return expected

    def _tolerance(self, what: Output | Direction) -> float:
        return tolerance_for(
            self._problem.dtype, what, heads_per_key=self._heads_per_key, seqlen_q=self._problem.seqlen_q
        )

    def _verdict(self, errors: dict[Output, float]) -> str | None:
        for name, error in errors.items():
            tolerance = self._tolerance(name)
            if not math.isfinite(error):
                return f"{name} has NaN or infinity where the float64 oracle has a number"
            if error > tolerance:
                return (
                    f"{name} is off the float64 oracle by {error:.2g}, more than rounding's {tolerance:.2g}"
                )
        return None
