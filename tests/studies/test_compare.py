"""The matches, refusals and conclusions of compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.fake_exports import make_duel
from helpers.fake_results import MACHINE, make_measurement, make_results

from flashbench.analysis.compare import IncomparableError, compare
from flashbench.analysis.pairs import least_processes
from flashbench.errors import ResultsError
from flashbench.results.record import Measurement, Results, Status
from flashbench.results.store import load


def on_machine(**changes: Any) -> Results:
    return make_results(machine=msgspec.structs.replace(MACHINE, **changes))


def with_processes(row: Measurement, processes: int) -> Measurement:
    """The measurement with only that many of its processes."""
    assert row.time is not None
    time = msgspec.structs.replace(row.time, samples_ns=row.time.samples_ns[:processes])
    return msgspec.structs.replace(row, time=time)


@pytest.mark.parametrize("processes", [1, 3, 6])
def test_a_file_is_the_same_as_itself_however_few_its_samples(processes: int) -> None:
    rows = [with_processes(make_measurement("flash", n, spread=0.4), processes) for n in (128, 512)]
    rows.append(make_measurement("numpy", 512, status="crashed", reason="killed by signal 11"))
    comparison = compare(make_results(rows), make_results(rows))
    assert {pair.verdict for pair in comparison.pairs} == {"same"}
    assert comparison.exit_code == 0
    assert comparison.differences == []
    assert comparison.remarks == ["both files hold the same results: nothing was measured between them"]


def test_documented_figures_are_the_same_as_themselves(repository: Path) -> None:
    documented = load(repository / "results" / "documented.json")
    assert compare(documented, documented).exit_code == 0


def test_a_measurement_anew_is_not_the_same_for_being_of_one_process() -> None:
    rows = [with_processes(make_measurement("flash", 512, slower=slower), 1) for slower in (1.0, 1.001)]
    base, new = (make_results([row]) for row in rows)
    comparison = compare(base, new)
    assert [pair.verdict for pair in comparison.pairs] == ["inconclusive"]
    assert comparison.remarks[0].startswith("1 process a side cannot exclude chance for 1 measurement:")


@pytest.mark.parametrize(
    ("slower", "verdict", "exit_code"),
    [(1.2, "regressed", 1), (1.06, "inconclusive", 3), (1.01, "same", 0), (0.5, "improved", 0)],
)
def test_a_change_of_time_has_a_verdict_and_an_exit_code(slower: float, verdict: str, exit_code: int) -> None:
    base = make_results([make_measurement("flash", 4096)])
    new = make_results([make_measurement("flash", 4096, slower=slower)])
    comparison = compare(base, new)
    assert [pair.verdict for pair in comparison.pairs] == [verdict]
    assert comparison.exit_code == exit_code


def test_a_feature_is_part_of_what_a_measurement_is() -> None:
    plain = make_measurement("flash", 512, causal=True)
    others = [
        make_measurement("flash", 512, causal=True, **feature)
        for feature in (
            {"window": (64, 0)},
            {"window": (128, 0)},
            {"softcap": 50.0},
            {"alibi": True},
            {"sinks": True},
            {"mask": "bool"},
            {"mask": "bool", "mask_axes": "k"},
            {"dropout": 0.1},
            {"dropout": 0.1, "dropout_seed": 7},
            {"key_lengths": (256,)},
            {"key_lengths": (256,), "query_lengths": (256,)},
            {"page_size": 16},
        )
    ]
    comparison = compare(make_results([plain, *others]), make_results([plain, *others[:-1]]))
    assert len(comparison.pairs) == len(others)
    assert comparison.only_in_base == others[-1:]
    for other in others:
        with pytest.raises(IncomparableError, match="have no measurement in common"):
            compare(make_results([plain]), make_results([other]))


def test_fail_over_moves_the_limit() -> None:
    base = make_results([make_measurement("flash", 4096)])
    new = make_results([make_measurement("flash", 4096, slower=1.2)])
    assert compare(base, new, fail_over=0.5).exit_code == 0


@pytest.mark.parametrize(
    ("workspace", "verdict", "note"),
    [(1.2, "regressed", "more memory"), (1.01, "same", None), (0.5, "same", None)],
)
def test_more_memory_regresses_too(workspace: float, verdict: str, note: str | None) -> None:
    row = make_measurement("flash", 4096)
    assert row.memory is not None
    peak = round(row.memory.workspace_peak_bytes * workspace)
    memory = msgspec.structs.replace(row.memory, workspace_peak_bytes=peak)
    new = msgspec.structs.replace(row, memory=memory)
    (pair,) = compare(make_results([row]), make_results([new])).pairs
    assert (pair.verdict, pair.note) == (verdict, note)


@pytest.mark.parametrize(
    ("old", "new", "verdict", "note"),
    [
        ("ok", "crashed", "failed", "now crashed"),
        ("crashed", "ok", "failed", "was crashed"),
        ("too_large", "too_large", "same", "too large in both"),
        ("timeout", "crashed", "failed", "timeout, now crashed"),
        ("ok", "wrong", "failed", "now wrong"),
    ],
)
def test_a_status_that_changes_is_a_verdict(old: Status, new: Status, verdict: str, note: str) -> None:
    base = make_results([make_measurement("flash", 128, status=old)])
    comparison = compare(base, make_results([make_measurement("flash", 128, status=new)]))
    (pair,) = comparison.pairs
    assert (pair.verdict, pair.note) == (verdict, note)
    # 4 even for the same file: it has no measurement that could be compared.
    assert comparison.exit_code == (3 if new == "ok" else 4)


def test_what_failed_in_both_files_is_no_news_beside_what_was_measured() -> None:
    rows = [make_measurement("flash", 128), make_measurement("standard", 128, status="too_large")]
    comparison = compare(make_results(rows), make_results(rows))
    assert [pair.verdict for pair in comparison.pairs] == ["same", "same"]
    assert comparison.exit_code == 0


def test_few_processes_have_no_verdict_however_far_apart() -> None:
    for processes, note in ((4, None), (3, "3 and 3 processes"), (1, "1 and 1 processes")):
        rows = [make_measurement("flash", 4096, slower=slower) for slower in (1.0, 2.0)]
        comparison = compare(*(make_results([with_processes(row, processes)]) for row in rows))
        (pair,) = comparison.pairs
        assert pair.note == note
        assert pair.verdict == ("regressed" if note is None else "inconclusive")
        assert any("--rounds 4 or more" in line for line in comparison.remarks) == (note is not None)


def test_more_measurements_need_more_processes() -> None:
    assert [least_processes(count) for count in (1, 2, 10, 40)] == [4, 5, 6, 7]
    lengths = range(100, 140)
    base, new = ([make_measurement("flash", n, slower=slower) for n in lengths] for slower in (1.0, 2.0))
    comparison = compare(make_results(base), make_results(new))
    assert {pair.verdict for pair in comparison.pairs} == {"regressed"}
    for pair in comparison.pairs:
        assert pair.p_value == pytest.approx(2 / 3432)
        assert pair.p_holm == pytest.approx(40 * 2 / 3432)


def test_a_threshold_below_the_noise_floor_is_remarked_on() -> None:
    noisy = on_machine(noise_floor=0.08)
    assert any("noise floor of this machine was 8.0%" in line for line in compare(noisy, noisy).remarks)
    assert not any("noise floor" in line for line in compare(noisy, noisy, fail_over=0.1).remarks)


def test_times_without_spread_have_no_verdict() -> None:
    row = make_measurement("flash", 128)
    assert row.time is not None
    time = msgspec.structs.replace(row.time, samples_ns=[row.time.samples_ns[0][:1]])
    comparison = compare(make_results([msgspec.structs.replace(row, time=time)]), make_results([row]))
    assert [(pair.verdict, pair.note) for pair in comparison.pairs] == [("inconclusive", "no samples")]
    assert comparison.exit_code == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cpu": "Other CPU"}, "cpu: Example CPU 9000 @ 3.00GHz / Other CPU"),
        ({"cores": 4}, "cores: 2 / 4"),
        ({"isa": "avx2"}, "isa: avx512 / avx2"),
        ({"governor": None}, "governor: performance / not stated"),
        ({"cpu_quota": 1.5}, "cpu_quota: none / 1.5"),
        (
            {"binding": {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}},
            "binding: none / OMP_PLACES=cores, OMP_PROC_BIND=close",
        ),
    ],
)
def test_unlike_machines_are_refused_and_the_difference_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(IncomparableError) as caught:
        compare(make_results(), on_machine(**changes), base_name="old.json", new_name="new.json")
    assert str(caught.value) == f"old.json and new.json are not comparable: {said}"
    assert caught.value.exit_code == 3
    forced = compare(make_results(), on_machine(**changes), force=True)
    assert [one.name for one in forced.differences] == list(changes)
    assert forced.exit_code == 0


def test_unlike_threads_are_refused() -> None:
    rows = [msgspec.structs.replace(row, threads=1) for row in make_results().measurements]
    with pytest.raises(IncomparableError, match="threads: 2 / 1"):
        compare(make_results(), make_results(rows))


def test_quotas_and_bindings_that_are_alike_are_no_difference() -> None:
    base, new = (
        on_machine(cpu_quota=1.5, binding=binding)
        for binding in (
            {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"},
            {"OMP_PLACES": "cores", "OMP_PROC_BIND": "close"},
        )
    )
    assert compare(base, new).differences == []


@pytest.mark.parametrize("make", [make_results, make_duel])
def test_cold_caches_are_not_comparable_with_warm_ones(make: Callable[[], Results]) -> None:
    """A duel has the settings of its measuring in its study's."""
    warm = make()
    settings = {"cold": True}
    config = {"study": settings} if warm.kind == "duel" else settings
    cold = msgspec.structs.replace(warm, config=warm.config | config)
    with pytest.raises(IncomparableError, match="cold: False / True"):
        compare(warm, cold)
    assert compare(cold, cold).differences == []


def test_what_may_differ_is_remarked_on_but_not_refused() -> None:
    new = on_machine(host="another", libraries={"numpy": "2.1.0"}, peak_gflops={"float64": 100.0})
    assert compare(make_results(), new).remarks == [
        "the machine itself ran at another speed: FMA peak 117 / 100 GFLOP/s float64",
        "numpy 2.0.0 / 2.1.0",
    ]


def test_a_measurement_is_identified_by_problem_engine_direction_and_blocks_asked_for() -> None:
    rows: list[Measurement] = [
        make_measurement("flash", 128),
        make_measurement("flash", 128, block=64),
        make_measurement("flash", 128, causal=True),
        make_measurement("flash", 128, direction="bwd"),
        make_measurement("numpy", 128),
    ]
    comparison = compare(make_results(rows), make_results(rows[::-1]))
    assert [(pair.base, pair.new) for pair in comparison.pairs] == [(row, row) for row in rows]


def test_points_of_a_scaling_curve_are_compared_with_those_of_as_many_threads() -> None:
    rows = [
        msgspec.structs.replace(make_measurement("flash", 128, slower=4 / threads), threads=threads)
        for threads in (1, 2, 4)
    ]
    comparison = compare(make_results(rows), make_results(rows[::-1]))
    assert [(pair.base, pair.new) for pair in comparison.pairs] == [(row, row) for row in rows]
    forced = compare(make_results(rows), make_results(rows[1:2]), force=True)
    assert [pair.base.threads for pair in forced.pairs] == [2]
    assert forced.only_in_base == [rows[0], rows[2]]


def test_what_is_in_one_file_alone_is_listed() -> None:
    rows = [make_measurement("flash", seqlen) for seqlen in (128, 256, 512)]
    comparison = compare(make_results(rows[:2]), make_results(rows[1:]))
    assert [pair.base for pair in comparison.pairs] == [rows[1]]
    assert comparison.only_in_base == [rows[0]]
    assert comparison.only_in_new == [rows[2]]


def test_other_blocks_are_matched_by_force_alone_and_only_without_a_choice() -> None:
    auto, small, large = (make_measurement("flash", 128, block=block) for block in (None, 32, 64))
    with pytest.raises(IncomparableError, match="no measurement in common"):
        compare(make_results([small]), make_results([auto]))
    assert len(compare(make_results([small]), make_results([auto]), force=True).pairs) == 1
    with pytest.raises(IncomparableError, match="no measurement in common"):
        compare(make_results([small, large]), make_results([auto]), force=True)


def test_a_file_that_holds_a_measurement_twice_is_refused() -> None:
    row = make_measurement("flash", 128)
    with pytest.raises(ResultsError, match=r"old\.json holds flash at 128 twice"):
        compare(make_results([row, row]), make_results([row]), base_name="old.json")


def test_documented_figures_stand_beside_measured_ones_but_get_no_verdict_on_time(repository: Path) -> None:
    documented = load(repository / "results" / "documented.json")
    with pytest.raises(IncomparableError, match="kind: documented / profile"):
        compare(documented, make_results())
    comparison = compare(documented, make_results(), force=True)
    flash = [pair for pair in comparison.pairs if pair.base.engine == "flash"]
    assert len(flash) == 5
    assert {(pair.verdict, pair.note) for pair in flash} == {("inconclusive", "no samples")}
    assert all(pair.time_ratio and pair.memory_ratio for pair in flash)
    assert {pair.verdict for pair in comparison.pairs if pair.base.engine == "standard"} == {"same"}
    assert comparison.exit_code == 3
    assert len(comparison.only_in_base) == 10  # batch 8
