"""The workload calls an engine like a user, and its check finds wrong results."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from helpers import fake_engines, wrong_engines
from helpers.oracle_engine import Oracle

from flashbench.dtypes import DTYPES, NARROWEST_FIRST, entry_of_output
from flashbench.engines import Layout, Settings
from flashbench.engines.peers.numpy import NumpyEngine
from flashbench.errors import UnsupportedError
from flashbench.extras import make_extras
from flashbench.measure.protocol import build_workload
from flashbench.problem import AttentionProblem, Direction
from flashbench.studies import workload
from flashbench.studies.study import Point
from flashbench.studies.workload import AttentionWorkload

GROUPED = AttentionProblem.of(40, seqlen_k=56, batch=3, num_heads=4, num_kv_heads=2, head_dim=8, causal=True)

FEATURED = {
    "window": {"window": (5, 3)},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool mask": {"mask": "bool", "mask_axes": "bk"},
    "float mask": {"mask": "float", "mask_axes": "bhqk"},
    "block mask": {"mask": "block", "mask_axes": "hqk"},
    "key lengths": {"key_lengths": (17, 0, 56)},
    "packed": {"query_lengths": (40, 3, 21), "key_lengths": (17, 0, 56)},
    "dropout": {"dropout": 0.3, "dropout_seed": 2**40},
    "many": {
        "sinks": True,
        "dropout": 0.3,
        "alibi": True,
        "softcap": 3.0,
        "mask": "bool",
        "mask_axes": "bhqk",
    },
}


def featured(name: str, **options: Any) -> AttentionProblem:
    options = {"seqlen_k": 56, "batch": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, **options}
    return AttentionProblem.of(40, **options, **FEATURED[name])


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
@pytest.mark.parametrize("dtype", NARROWEST_FIRST)
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("output", ["o", "dq", "dk", "dv", "dsinks"])
def test_error_in_16_bits_is_found_where_a_naive_computation_is_better(output: Any, dtype: Any) -> None:
    problem = AttentionProblem.of(40, num_heads=4, num_kv_heads=2, head_dim=8, sinks=True, dtype=dtype)
    made = make(Oracle(), "fwd_bwd", problem)
    found = made.check()
    assert found["wrong"] is None
    entry = entry_of_output(problem.dtype, output)
    numbers = entry.view(made._outputs[output]).copy()
    numbers.flat[-1] += 100 * DTYPES[problem.dtype].unit_roundoff
    made._outputs[output] = entry.make(numbers)
    assert made.check()["wrong"].startswith(f"{output} is off the float64 oracle by ")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lse_beside_16_bits_is_held_to_float32(dtype: Any) -> None:
    made = make(Oracle(), "fwd", AttentionProblem.of(40, head_dim=8, dtype=dtype))
    assert made.check()["wrong"] is None
    made._outputs["lse"][0, 0, 3] += 1e-4
    assert made.check()["wrong"] == "lse is off the float64 oracle by 0.0001, more than rounding's 1.5e-05"


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


def test_many_small_groups_are_checked_from_the_first_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "MOST_GROUPS", 5)
    made = make(
        NumpyEngine(), "fwd", AttentionProblem.of(2, batch=30, num_heads=4, num_kv_heads=2, head_dim=4)
    )
    assert made.check()["rows_checked"] == 5 * 2 * 2
    for batch, head in ((0, 0), (29, 3)):
        made._outputs["o"][batch, head] += 1e-6
        assert made.check()["wrong"].startswith("o is off")
        made._outputs["o"][batch, head] -= 1e-6


def test_a_check_of_many_sequences_does_not_list_them_all_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = (2, 0, 1) * 20
    problem = AttentionProblem.of(2, batch=60, head_dim=4, key_lengths=lengths, query_lengths=lengths)
    made = make(Oracle(), "fwd_bwd", problem)
    listed = Counter[int]()
    sequences = AttentionProblem.sequences

    def counted(problem: AttentionProblem) -> Any:
        listed[problem.batch] += 1
        return sequences(problem)

    monkeypatch.setattr(AttentionProblem, "sequences", counted)
    assert made.check()["wrong"] is None
    assert set(listed) == {1}


def test_unsupported_problem_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="seqlen_q must be odd, not 40"):
        make(fake_engines.Unsupporting(), "fwd")


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("dtype", NARROWEST_FIRST)
def test_inputs_begin_at_cache_lines_in_the_order_that_the_engine_reads(layout: Layout, dtype: Any) -> None:
    problem = AttentionProblem.of(33, batch=2, num_heads=3, head_dim=5, dtype=dtype)
    for x in problem.make_inputs(0):
        for _ in range(8):  # where malloc puts an array is chance
            found = workload.placed(x, layout)
            assert np.array_equal(found, x)
            assert found.__array_interface__["data"][0] % 64 == 0
            ordered = found if layout == "bhsd" else found.swapaxes(1, 2)
            assert ordered.flags.c_contiguous


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", FEATURED)
def test_an_engine_gets_the_extras_and_is_checked_by_them(
    name: str, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sampled:
        monkeypatch.setattr(workload, "SAMPLE_ABOVE_FLOPS", 0)
    made = make(Oracle(), "fwd_bwd", featured(name))
    found = made.check()
    assert found["wrong"] is None
    assert found["max_abs_error"] == 0.0
    sequences = made._problem.sequences()
    checked = (sequences[0], sequences[-1]) if sampled else 2 * sequences
    assert found["rows_checked"] == 2 * sum(sequence.seqlen_q for sequence in checked)
    for output in ("o", "lse", "dq", "dk", "dv"):
        made._outputs[output] += 1e-6
        assert made.check()["wrong"].startswith(f"{output} is off")
        made._outputs[output] -= 1e-6


@pytest.mark.parametrize("sampled", [False, True])
def test_keys_in_pages_are_checked(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if sampled:
        monkeypatch.setattr(workload, "SAMPLE_ABOVE_FLOPS", 0)
    problem = AttentionProblem.of(
        2, seqlen_k=30, batch=3, num_heads=4, num_kv_heads=2, head_dim=8, page_size=8, key_lengths=(30, 5, 17)
    )
    made = make(Oracle(), "fwd", problem)
    assert made.check()["wrong"] is None
    made._outputs["o"][2, 3, 1, 0] += 1e-6
    assert made.check()["wrong"].startswith("o is off")


def test_dsinks_are_checked_head_by_head() -> None:
    made = make(Oracle(), "bwd", featured("sinks"))
    for head in range(4):
        made._outputs["dsinks"][head] += 1e-6
        assert made.check()["wrong"].startswith("dsinks is off the float64 oracle by 1e-06")
        made._outputs["dsinks"][head] -= 1e-6
    assert made.check()["wrong"] is None
    del made._outputs["dsinks"]
    assert made.check()["wrong"] == "dsinks is missing"


@pytest.mark.parametrize(("batch", "wrong"), [(1, [True, False, True]), (2, [False, False, False])])
def test_dsinks_of_a_sample_count_where_every_sequence_is_in_it(
    batch: int, wrong: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "SAMPLE_ABOVE_FLOPS", 0)
    made = make(Oracle(), "bwd", featured("sinks", batch=batch, num_heads=3, num_kv_heads=3))
    for head in range(3):
        made._outputs["dsinks"][head] += 1e-6
        assert (made.check()["wrong"] is not None) == wrong[head]
        made._outputs["dsinks"][head] -= 1e-6


def test_slopes_that_make_logits_large_widen_the_tolerance_by_their_lse() -> None:
    problem = AttentionProblem.of(400, seqlen_k=8, num_heads=4, alibi=True)  # 392 keys away
    near = make(Oracle(), "bwd", featured("alibi")).check()["tolerance"]
    far = make(Oracle(), "bwd", problem).check()["tolerance"]
    largest = np.abs(make(Oracle(), "fwd", problem)._outputs["lse"]).max()
    assert 1e-12 == near < far == pytest.approx(1e-12 * largest / 16)


@pytest.mark.parametrize("axes", ["", "k", "bk", "qk", "bhqk"])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_and_sinks_begin_at_cache_lines_and_stay_views(kind: Any, axes: str) -> None:
    problem = AttentionProblem.of(
        33, seqlen_k=7, batch=2, num_heads=3, dtype="float32", mask=kind, mask_axes=axes, sinks=True
    )
    extras = make_extras(problem, 0)
    for _ in range(8):
        placed = workload.placed_extras(problem, extras)
        assert np.array_equal(placed.mask, extras.mask)
        assert placed.mask.strides == extras.mask.strides
        assert np.array_equal(placed.sinks, extras.sinks)
        for x in (placed.mask, placed.sinks):
            assert x.__array_interface__["data"][0] % 64 == 0


SPOILED: dict[str, dict[str, Any]] = {
    "q": {},
    "k": {},
    "v": {},
    "k in pages": {"page_size": 8},
    "v in pages": {"page_size": 8},
    "mask": {"mask": "bool", "mask_axes": "k"},
    "mask of numbers": {"mask": "float", "mask_axes": "bhqk"},
    "mask of blocks": {"mask": "block", "mask_block_q": 16, "mask_block_k": 16},
    "sinks": {"sinks": True},
    "alibi_slopes": {"alibi": True},
    "block_table": {"page_size": 8},
}


SPOILINGS: list[tuple[str, Direction, Direction]] = [  # what is changed, by which call, in which measurement
    *((what, "fwd", direction) for what in SPOILED for direction in get_args(Direction)),
    *((what, "bwd", direction) for what in (*SPOILED, "do") for direction in ("bwd", "fwd_bwd")),
    ("o", "bwd", "bwd"),
    ("lse", "bwd", "bwd"),
]


@pytest.mark.parametrize(
    ("what", "way", "direction"),
    # Keys in pages have no gradients.
    [some for some in SPOILINGS if some[2] == "fwd" or "page_size" not in SPOILED.get(some[0], {})],
)
def test_an_engine_that_is_right_about_inputs_it_has_changed_is_wrong(
    what: str, way: Direction, direction: Direction
) -> None:
    name = what.partition(" ")[0]
    problem = AttentionProblem.of(24, batch=2, num_heads=2, head_dim=8, **SPOILED.get(what, {}))
    found = make(wrong_engines.Scribbling(name, way), direction, problem).check()
    assert found["wrong"] == f"changed its input {name}"


def test_an_engine_is_judged_by_inputs_that_it_has_not_seen() -> None:
    found = make(wrong_engines.Scribbling("q", "fwd"), "fwd").check()
    assert found["max_abs_error"] > 0.1


def test_a_check_holds_no_second_copy_of_inputs_that_are_as_they_were() -> None:
    made = make(NumpyEngine(), "fwd")
    inputs, _, spoiled = made._as_made()
    assert spoiled is None
    assert all(ours is its for ours, its in zip(inputs, made._inputs, strict=True))
