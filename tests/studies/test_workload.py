"""The workload calls an engine as a user would, and its check finds what is wrong."""

from __future__ import annotations

import json
from typing import Any, get_args

import fake_engines
import numpy as np
import pytest

from flashbench.engines import Layout, Settings
from flashbench.engines.numpy import NumpyEngine
from flashbench.errors import UnsupportedError
from flashbench.measure.protocol import build_workload
from flashbench.problem import AttentionProblem, Direction
from flashbench.studies import workload
from flashbench.studies.study import Point
from flashbench.studies.workload import AttentionWorkload

GROUPED = AttentionProblem.of(40, seqlen_k=56, batch=3, num_heads=4, num_kv_heads=2, head_dim=8, causal=True)


def make(engine: Any, direction: Direction, problem: AttentionProblem = GROUPED) -> AttentionWorkload:
    made = AttentionWorkload(engine, problem, direction, Settings(num_threads=1), seed=0)
    made.call()
    return made


def test_workload_is_made_again_in_another_process_from_json() -> None:
    point = Point(GROUPED, "numpy", "bwd", Settings(block_q=16, block_k=32, num_threads=1))
    arguments = json.loads(json.dumps(workload.arguments(point, seed=7)))
    again = build_workload(workload.FACTORY, arguments)
    again.call()
    assert again.check()["wrong"] is None


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_right_engine_passes(direction: Direction, dtype: Any) -> None:
    problem = AttentionProblem.of(40, num_heads=2, num_kv_heads=1, dtype=dtype)
    found = make(NumpyEngine(), direction, problem).check()
    assert found["wrong"] is None
    assert found["max_abs_error"] <= found["tolerance"]
    assert found["rows_checked"] == 2 * 40


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_output_bytes_are_what_the_problem_says_where_lse_is_given(direction: Direction) -> None:
    assert make(NumpyEngine(), direction).describe()["output_bytes"] == GROUPED.output_bytes(direction)


def test_an_engine_without_lse_is_checked_on_what_it_gives() -> None:
    made = make(fake_engines.Lean(), "fwd_bwd")
    without_lse = GROUPED.output_bytes("fwd_bwd") - GROUPED.batch * 4 * 40 * GROUPED.itemsize
    assert made.describe()["output_bytes"] == without_lse
    assert made.check()["wrong"] is None
    made._outputs["o"][0, 0, 0, 0] += 1e-6
    assert made.check()["wrong"].startswith("o is off")


def test_the_kernel_that_ran_and_its_note_are_told() -> None:
    assert make(NumpyEngine(), "fwd").describe()["kernel"] is None
    described = make(fake_engines.Lean(), "bwd").describe()
    assert (described["kernel"], described["note"]) == ("lean bwd", "after 1 forward")


def test_an_engine_reads_arrays_in_the_order_it_asks_for() -> None:
    engine = fake_engines.SequenceFirst()
    assert make(engine, "fwd_bwd").check()["wrong"] is None
    assert engine.orders == {"sequence first"}
    assert make(NumpyEngine(), "fwd")._inputs.q.flags.c_contiguous


def test_memory_is_measured_without_what_an_arena_kept() -> None:
    point = Point(GROUPED, "numpy", "fwd", Settings())
    assert workload.arguments(point, seed=0)["settings"]["keep_scratch"] is True
    assert workload.arguments(point, seed=0, keep_scratch=False)["settings"]["keep_scratch"] is False


def test_blocks_are_told_as_the_engine_uses_them() -> None:
    assert make(NumpyEngine(), "fwd").describe()["blocks"] is None
    assert make(fake_engines.Blocked(), "fwd").describe()["blocks"] == (48, 24)


@pytest.mark.parametrize("output", ["o", "lse", "dq", "dk", "dv"])
def test_error_in_any_output_of_any_head_is_found(output: Any) -> None:
    made = make(NumpyEngine(), "fwd_bwd")
    made._outputs[output] = made._outputs[output].copy()
    made._outputs[output][-1, -1, -1] += 1e-6
    found = made.check()
    assert found["wrong"] == f"{output} is off the float64 oracle by 1e-06, more than rounding's 1e-12"


def test_error_that_is_no_number_is_found() -> None:
    found = make(fake_engines.NotANumber(), "fwd").check()
    assert found["max_abs_error"] is None
    assert found["wrong"] == "o has NaN or infinity where the float64 oracle has a number"


def test_large_problem_is_checked_on_its_first_and_last_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "SAMPLE_ABOVE_FLOPS", 0)
    made = make(NumpyEngine(), "fwd_bwd")
    assert made.check()["rows_checked"] == 2 * 2 * 40  # 2 groups of 2 heads
    made._outputs["o"][1] = np.nan  # not in the sample
    assert made.check()["wrong"] is None
    made._outputs["dk"][2, 1, 0] = np.nan
    assert made.check()["wrong"].startswith("dk has NaN")


def test_unsupported_problem_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="seqlen_q must be odd, not 40"):
        make(fake_engines.Unsupporting(), "fwd")


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_begin_at_cache_lines_in_the_order_that_the_engine_reads(layout: Layout, dtype: Any) -> None:
    problem = AttentionProblem.of(33, batch=2, num_heads=3, head_dim=5, dtype=dtype)
    for x in problem.make_inputs(0):
        for _ in range(8):  # where malloc puts an array is chance
            found = workload.placed(x, layout)
            assert np.array_equal(found, x)
            assert found.__array_interface__["data"][0] % 64 == 0
            ordered = found if layout == "bhsd" else found.swapaxes(1, 2)
            assert ordered.flags.c_contiguous
