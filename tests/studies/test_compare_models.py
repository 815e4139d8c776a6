"""compare on files of whole models: of train and of infer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from helpers.fake_inference import make_inference, make_test
from helpers.fake_results import make_results, make_time
from helpers.fake_training import make_step, make_training
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.analysis.compare import IncomparableError, compare
from flashbench.report.annotations import compare_annotations
from flashbench.report.compare import compare_markdown, compare_report
from flashbench.results.record import Results


def steps(slower: float = 1.0, **changed: object) -> Results:
    time = make_time(slower * 8e7)
    return make_training([make_step(arm, 512, time=time, **changed) for arm in ("standard", "flash")])


def inference(slower: float = 1.0, **changed: object) -> Results:
    rows = [
        make_test(arm, "decode", depth, time=make_time(slower * (8e7 + depth)), **changed)
        for depth in (0, 4096)
        for arm in ("sdpa", "flash")
    ]
    return msgspec.structs.replace(make_results([]), kind="infer", inference=rows)


Make = Callable[..., Results]
EACH = pytest.mark.parametrize("make", [steps, inference])


@EACH
@pytest.mark.parametrize(
    ("slower", "verdict", "exit_code"),
    [(1.2, "regressed", 1), (1.01, "same", 0), (0.5, "improved", 0)],
)
def test_a_change_has_a_verdict(make: Make, slower: float, verdict: str, exit_code: int) -> None:
    comparison = compare(make(), make(slower))
    assert {pair.verdict for pair in comparison.pairs} == {verdict}
    assert len(comparison.pairs) == len(make().rows)
    assert comparison.exit_code == exit_code


@EACH
def test_a_file_is_the_same_as_itself(make: Make) -> None:
    assert {pair.verdict for pair in compare(make(), make()).pairs} == {"same"}


@EACH
def test_more_memory_regresses(make: Make) -> None:
    comparison = compare(make(peak_bytes=10_000_000), make(peak_bytes=11_000_000))
    assert {(pair.verdict, pair.note) for pair in comparison.pairs} == {("regressed", "more memory")}


@EACH
def test_a_failure_is_no_time(make: Make) -> None:
    failed = make(status="crashed", reason="killed by signal 9")
    assert {pair.verdict for pair in compare(make(), failed).pairs} == {"failed"}


@EACH
def test_another_model_of_the_same_name_is_refused(make: Make) -> None:
    with pytest.raises(IncomparableError, match=r"parameters of .*: 5 / 6"):
        compare(make(parameters=5), make(parameters=6))


def test_another_horizon_is_refused() -> None:
    base, new = (msgspec.structs.replace(steps(), config={"horizon": horizon}) for horizon in (24, 48))
    with pytest.raises(IncomparableError, match="horizon: 24 / 48"):
        compare(base, new)


@pytest.mark.parametrize("other", [{"batch": 2}, {"tokens": 5}, {"dtype": "bfloat16"}, {"model": "else"}])
def test_other_work_is_no_match(other: dict[str, object]) -> None:
    with pytest.raises(IncomparableError, match="no measurement in common"):
        compare(inference(), inference(**other))


def test_kinds_have_nothing_in_common() -> None:
    with pytest.raises(IncomparableError, match="no measurement in common"):
        compare(steps(), inference())


@pytest.mark.parametrize("width", [80, 120])
@EACH
def test_tables(make: Make, width: int, snapshot: SnapshotAssertion) -> None:
    assert rendered(compare_report(compare(make(), make(1.2))), width=width) == snapshot


def test_markdown_and_annotations(snapshot: SnapshotAssertion) -> None:
    comparison = compare(inference(), inference(1.2))
    assert compare_markdown(comparison) == snapshot
    first, *_ = compare_annotations(comparison)
    assert first.title == "regressed: llama-160m, float32, decode 32, depth 0, sdpa"
    assert first.message.startswith("time 1.20x")


def test_a_row_that_is_in_one_file_alone_is_named() -> None:
    base, new = make_inference(), make_inference()
    fewer = [row for row in new.inference if (row.test, row.depth) != ("decode", 4000)]
    text = rendered(compare_report(compare(base, msgspec.structs.replace(new, inference=fewer))), width=120)
    assert "only in base: flash, llama-160m, float32, decode 32: 4000" in text
