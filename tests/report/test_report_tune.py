"""The output of `tune` for made-up outcomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.tuned import Check, Key
from flashbench.report import tune as report
from flashbench.report.tune import table_lines, tune_json, tune_lines, tune_report
from flashbench.studies.tune.keep import Outcome, Tuned


def make_check(seqlen: int, heads: int, ratio: float, spread: float = 0.01) -> Check:
    return Check(
        seqlen=seqlen,
        heads=heads,
        built_in=(16, min(512, seqlen // 3 // 8 * 8)),
        ratio=ratio,
        low=ratio - spread,
        high=ratio + spread,
    )


def make_outcome(seqlen: int, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "key": Key("float32", 64, False, "fwd", seqlen.bit_length()),
        "tried": Blocks(64, 64),
        "heads_from": 1,
        "threads": 2,
        "checks": [make_check(seqlen, 1, 0.77), make_check(2 * seqlen - 1, 1, 0.731)],
    }
    return Outcome(**fields | changes)


@pytest.fixture
def tuned() -> Tuned:
    """Outcomes: won, won only with many heads, lost, not tried, failed."""
    many = [make_check(512, 1, 1.04), make_check(512, 8, 0.913, 0.004), make_check(1023, 8, 0.9, 0.1)]
    causal = Key("float32", 64, True, "bwd", 10)
    outcomes = [
        make_outcome(256, tried=None, heads_from=None, checks=[]),
        make_outcome(512, tried=Blocks(32, 56), heads_from=8, checks=many),
        make_outcome(1024, tried=Blocks(128, 1024), heads_from=None, checks=[make_check(1040, 1, 1.2, 0.4)]),
        make_outcome(2048),
        make_outcome(4096),
        make_outcome(
            512, key=causal, heads_from=None, checks=[], failure="killed by SIGKILL in its first call"
        ),
    ]
    return Tuned(
        path="/home/someone/.cache/flashbench/tuned/example-cpu-9000-zen4-avx512.json",
        cpu="Example CPU 9000, zen4, avx512",
        asked=6,
        outcomes=outcomes,
        others_cores=0.31,
    )


@pytest.mark.parametrize("width", [80, 120])
def test_tables(tuned: Tuned, snapshot: SnapshotAssertion, width: int) -> None:
    text = rendered(tune_report(tuned), width)
    assert text == snapshot
    assert max(map(len, text.splitlines())) <= width


def test_lines_say_what_failed_what_was_won_and_what_disturbed(
    tuned: Tuned, snapshot: SnapshotAssertion
) -> None:
    assert tune_lines(tuned) == snapshot


def test_nothing_won_is_kept_nowhere() -> None:
    outcome = make_outcome(256, tried=None, heads_from=None, checks=[])
    found = Tuned(path="/table.json", cpu="CPU", asked=1, outcomes=[outcome])
    assert tune_lines(found) == ["0 of 1 faster than the built-in blocks, which stay"]


def test_a_table_says_what_of_it_is_not_used(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "available_cores", lambda: 2)
    assert table_lines(tuned) == [f"6 kept in {tuned.path}"]
    monkeypatch.setattr(report, "available_cores", lambda: 64)
    assert table_lines(tuned)[1] == ("6 not used: tuned on 2 threads or fewer, this process may use 64")


def test_an_empty_table_says_so() -> None:
    found = Tuned(path="/table.json", cpu="Some CPU", asked=0, outcomes=[])
    assert table_lines(found) == ["no tuned block sizes for this CPU (Some CPU); flashbench tune makes them"]


def test_json_names_everything(tuned: Tuned) -> None:
    document = json.loads(tune_json(tuned))
    assert document["exit_code"] == 1
    assert document["path"] == tuned.path
    won = document["outcomes"][3]
    assert {name: won[name] for name in ("dtype", "head_dim", "causal", "direction")} == {
        "dtype": "float32",
        "head_dim": 64,
        "causal": False,
        "direction": "fwd",
    }
    assert (won["seqlen_from"], won["seqlen_to"], won["tried"], won["heads_from"]) == (
        2048,
        4095,
        [64, 64],
        1,
    )
    assert won["checks"][0]["ratio"] == 0.77
    assert document["outcomes"][5]["failure"] == "killed by SIGKILL in its first call"


def test_colors_do_not_change_the_words(tuned: Tuned) -> None:
    assert "\x1b[" in rendered(tune_report(tuned), color=True)
    assert "\x1b" not in rendered(tune_report(tuned))
