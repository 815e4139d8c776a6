"""duel --from: two attentions of a file of whole models, judged by its rounds."""

from __future__ import annotations

import math

import msgspec
import pytest
from helpers.fake_inference import PLACES, in_rounds, make_test
from helpers.fake_results import make_results, make_time
from helpers.rendering import rendered
from scipy.stats import wilcoxon
from syrupy.assertion import SnapshotAssertion

from flashbench.analysis.arm_duel import duel_of_arms
from flashbench.errors import ConfigError
from flashbench.report.duel import duel_report
from flashbench.results.record import InferenceTest


@pytest.mark.parametrize(
    ("slower", "verdict"), [(0.7, "b_faster"), (1.3, "a_faster"), (1.01, "same"), (1.05, "inconclusive")]
)
def test_verdicts(slower: float, verdict: str) -> None:
    duels = duel_of_arms(in_rounds(slower), "sdpa", "flash", 0.05).duels
    assert len(duels) == len(PLACES)
    assert {duel.verdict for duel in duels} == {verdict}
    assert all(duel.ratio == pytest.approx(slower, rel=1e-3) for duel in duels)


def test_rounds_pair_so_that_a_drift_cancels() -> None:
    """Rounds that get slower together, by more than the attentions differ."""
    drift = [1.5**number for number in range(10)]
    a, b = (
        make_test("sdpa", "decode", 0, time=msgspec.structs.replace(make_time(1e8), samples_ns=samples))
        for samples in (
            [[round(1e8 * factor)] for factor in drift],
            [[round(0.9e8 * factor * (1 + 0.01 * math.sin(number)))] for number, factor in enumerate(drift)],
        )
    )
    b = msgspec.structs.replace(b, attention="flash")
    results = msgspec.structs.replace(make_results([]), kind="infer", inference=[a, b])
    (duel,) = duel_of_arms(results, "sdpa", "flash", 0.05).duels
    assert duel.verdict == "b_faster"
    assert a.time is not None
    assert b.time is not None
    logs = [
        math.log(late[0] / early[0]) for early, late in zip(a.time.samples_ns, b.time.samples_ns, strict=True)
    ]
    assert duel.p_value == pytest.approx(wilcoxon(logs, method="exact").pvalue)


def test_few_rounds_are_inconclusive_and_say_how_many_would_do() -> None:
    judged = duel_of_arms(in_rounds(0.5, rounds=7), "sdpa", "flash", 0.05)
    assert {duel.verdict for duel in judged.duels} == {"inconclusive"}
    needed = "7 rounds cannot exclude chance in 4 tests: --resume --rounds 8 measures more"
    assert {duel.reason for duel in judged.duels} == {needed}
    enough = duel_of_arms(in_rounds(0.5, rounds=8), "sdpa", "flash", 0.05)
    assert {duel.verdict for duel in enough.duels} == {"b_faster"}


def test_a_side_that_failed_has_no_ratio() -> None:
    judged = duel_of_arms(in_rounds(1.0, status="wrong", reason="other tokens"), "sdpa", "flash", 0.05)
    assert {(duel.verdict, duel.reason, duel.ratio) for duel in judged.duels} == {("failed", "B wrong", None)}


def test_the_order_of_the_turns_is_that_of_the_rounds() -> None:
    """Three arms: each round is led by the next one."""
    duels = duel_of_arms(in_rounds(1.0, rounds=6), "sdpa", "flash", 0.05).duels
    assert duels[0].orders == ["ab", "ba", "ba", "ab", "ba", "ba"]


def test_only_the_two_attentions_are_in_the_file() -> None:
    judged = duel_of_arms(in_rounds(1.0), "flash", "eager", 0.05)
    assert [row.attention for row in judged.inference] == ["flash", "eager"] * len(PLACES)
    for duel in judged.duels:
        a, b = judged.rows[duel.a], judged.rows[duel.b]
        assert isinstance(a, InferenceTest)
        assert isinstance(b, InferenceTest)
        assert (a.test, a.depth) == (b.test, b.depth)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [("sdpa", "nope", "no attention 'nope'; it has sdpa, eager, flash"), ("flash", "flash", "both flash")],
)
def test_attentions_that_do_not_fit(a: str, b: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        duel_of_arms(in_rounds(1.0), a, b, 0.05)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table(width: int, snapshot: SnapshotAssertion) -> None:
    text = rendered(duel_report(duel_of_arms(in_rounds(0.7, rounds=8), "sdpa", "flash", 0.05)), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text == snapshot
