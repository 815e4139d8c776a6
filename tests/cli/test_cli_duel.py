"""`flashbench duel` from its options to its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.fake_results import make_measurement, make_results

from flashbench.problem import AttentionProblem
from flashbench.report.markdown import results_markdown
from flashbench.results.record import Duel, Process, Results, Verdict
from flashbench.results.store import load
from flashbench.studies import duel as study
from flashbench.studies.duel import DuelStudy
from flashbench.studies.noise_floor import known_floor
from flashbench.studies.runner import Interrupted

PROCESS = Process(
    python="/env/bin/python", python_version="3.11.9", flashbench_version="0.1.0", environment={}
)


def make_duel(verdict: Verdict = "same", ratio: float = 1.01, lengths: tuple[int, ...] = (1024,)) -> Results:
    """A duel file of flash against standard with one verdict for all lengths."""
    rows = []
    duels = []
    for place, n in enumerate(lengths):
        a = msgspec.structs.replace(make_measurement("flash", n), side="a")
        b = msgspec.structs.replace(make_measurement("standard", n), side="b")
        rows += [a, b]
        duels.append(
            Duel(
                a=2 * place,
                b=2 * place + 1,
                ratio=ratio,
                low=ratio * 0.98,
                high=ratio * 1.02,
                confidence=1 - 0.05 / 3,
                p_value=2 / 2**7,
                p_holm=min(1.0, len(lengths) * 2 / 2**7),
                threshold=0.05,
                orders=["ab", "ba", "ab", "ba", "ba", "ab", "ab"],
                looks=1,
                verdict=verdict,
                reason="7 rounds leave 0.990 to 1.100, which crosses the threshold"
                if verdict == "inconclusive"
                else None,
            )
        )
    sides = {
        "a": {"engine": "flash", "python": None},
        "b": {"engine": "standard", "python": "/env/bin/python"},
    }
    return msgspec.structs.replace(
        make_results(rows, kind="duel"),
        duels=duels,
        config={**sides, "looks": 3, "threshold": 0.05},
        processes={"a": PROCESS, "b": PROCESS},
    )


@pytest.fixture
def fake_fight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Replaces `fight`. `.results` is its return value; `.studies` holds the studies it was called with."""

    class Fake:
        def __init__(self) -> None:
            self.results = make_duel()
            self.studies: list[DuelStudy] = []
            self.options: list[dict[str, Any]] = []
            self.interrupt = False

        def __call__(self, asked: DuelStudy, **options: Any) -> Results:
            self.studies.append(asked)
            self.options.append(options)
            if self.interrupt:
                raise Interrupted(msgspec.structs.replace(self.results, complete=False))
            return self.results

    fake = Fake()
    monkeypatch.setattr(study, "fight", fake)
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return fake


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        ("same", 0),
        ("improved", 0),
        ("b_faster", 0),
        ("regressed", 1),
        ("a_faster", 1),
        ("inconclusive", 3),
        ("failed", 4),
    ],
)
def test_the_exit_code_is_the_verdict(flashbench, fake_fight, verdict: Verdict, code: int) -> None:
    results = fake_fight.results = make_duel(verdict)
    if verdict == "failed":
        results.measurements[1] = msgspec.structs.replace(results.measurements[1], status="crashed")
    assert flashbench("duel", "flash", "standard").code == code


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table(flashbench, fake_fight, snapshot, monkeypatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    fake_fight.results = make_duel("inconclusive", 1.04, (512, 1024, 4096))
    assert flashbench("duel", "flash", "standard").out == snapshot


def mixed() -> Results:
    """Each engine is faster somewhere, and one side crashed."""
    results = make_duel("a_faster", 1.2, (512, 1024, 4096))
    first, second, third = results.duels
    crashed = msgspec.structs.replace(
        results.measurements[5], status="crashed", reason="killed by SIGSEGV in its first call", time=None
    )
    nothing = dict.fromkeys(("ratio", "low", "high", "confidence", "p_value", "p_holm"))
    duels = [
        first,
        msgspec.structs.replace(second, verdict="b_faster", ratio=0.8, low=0.79, high=0.81),
        msgspec.structs.replace(third, verdict="failed", reason="B crashed", **nothing),
    ]
    rows = [*results.measurements[:5], crashed]
    return msgspec.structs.replace(results, duels=duels, measurements=rows)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_two_engines_are_faster_by_name_and_a_crash_is_no_verdict_on_speed(
    flashbench, fake_fight, snapshot, monkeypatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    fake_fight.results = mixed()
    done = flashbench("duel", "flash", "standard")
    assert done.out == snapshot
    assert "regressed" not in done.out + results_markdown(fake_fight.results)
    assert "improved" not in done.out + results_markdown(fake_fight.results)
    assert "| flash faster |" in results_markdown(fake_fight.results)


@pytest.mark.parametrize(
    ("words", "burst_s", "load_s"),
    [([], 600.0, 180.0), (["--timeout", "600"], 600.0, 600.0), (["--timeout", "7.5"], 7.5, 7.5)],
)
def test_a_timeout_is_for_bursts_and_for_loading_and_each_has_its_own_default(
    flashbench, fake_fight, words: list[str], burst_s: float, load_s: float
) -> None:
    assert flashbench("duel", "flash", "standard", *words).code == 0
    (asked,) = fake_fight.studies
    assert (asked.study.timeout_s, asked.load_timeout_s) == (burst_s, load_s)


@pytest.mark.parametrize("words", [["flash", "nope"], ["nope", "flash"], ["nope", "--aa"], ["all", "flash"]])
def test_an_unknown_engine_is_refused_before_the_fight(flashbench, fake_fight, words: list[str]) -> None:
    done = flashbench("duel", *words)
    assert done.code == 2
    unknown = "all" if "all" in words else "nope"
    assert done.err.startswith(f"error: unknown engine {unknown!r}; known: flash, standard, numpy, ")
    assert fake_fight.studies == []


def test_an_engine_of_another_environment_need_not_be_known_here(flashbench, fake_fight) -> None:
    flashbench("duel", "theirs", "numpy", "--python-a", "old/bin/python")
    flashbench("duel", "numpy", "theirs", "--python-b", "new/bin/python")
    assert [(one.a.engine, one.b.engine) for one in fake_fight.studies] == [
        ("theirs", "numpy"),
        ("numpy", "theirs"),
    ]
    assert {point.engine for one in fake_fight.studies for point in one.points()} == {"theirs", "numpy"}


def test_options_become_the_study(flashbench, fake_fight) -> None:
    words = ["--seq-lens", "512,2k", "--heads", "8", "--dtype", "float32", "--causal", "both", "--cold"]
    flashbench("duel", "flash", "numpy", *words, "--threshold", "3%", "--rounds", "12", "--looks", "2")
    (asked,) = fake_fight.studies
    assert (asked.a.engine, asked.b.engine, asked.threshold) == ("flash", "numpy", 0.03)
    assert (asked.rounds, asked.looks) == (12, 2)
    assert {point.problem for point in asked.points()} == {
        AttentionProblem.of(n, num_heads=8, dtype="float32", causal=causal)
        for n in (512, 2048)
        for causal in (False, True)
    }
    assert asked.study.cold
    assert fake_fight.options[0]["command"][:4] == ["flashbench", "duel", "flash", "numpy"]


def test_two_environments_fight_with_the_same_engine(flashbench, fake_fight) -> None:
    flashbench("duel", "standard", "--python-a", "old/bin/python", "--python-b", "new/bin/python")
    (asked,) = fake_fight.studies
    assert (asked.a.engine, asked.a.python) == ("standard", "old/bin/python")
    assert (asked.b.engine, asked.b.python) == ("standard", "new/bin/python")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flash"], "A and B are both flash of the same environment"),
        (["flash", "flash"], "A and B are both flash of the same environment"),
        (["--aa", "--python-b", "x"], "--aa is A against itself, here: it takes no B and no --python-a or"),
        (["--aa", "-n", "64,128"], "--aa measures the noise floor of one problem, not of 2"),
        (["flash", "numpy", "--threshold", "5"], "--threshold takes a share such as 5% or 0.05, not '5'"),
        (["flash", "numpy", "--rounds", "3"], "rounds must be at least 7 for 1 problem and 3 looks, not 3"),
        (["flash", "numpy", "--threads", "1,2"], "a duel is of one number of threads, not of 1, 2"),
        (["flash", "numpy", "--threshold", "0"], "threshold must be above 0, not 0"),
    ],
)
def test_what_cannot_be_fought_is_refused(flashbench, fake_fight, words: list[str], said: str) -> None:
    done = flashbench("duel", *words)
    assert done.code == 2
    assert done.err.startswith(f"error: {said}")
    assert fake_fight.studies == []


def test_aa_keeps_the_floor_and_refuses_a_smaller_threshold(flashbench, fake_fight) -> None:
    fake_fight.results = make_duel("same", 1.0)
    done = flashbench("duel", "--aa")
    assert done.code == 0
    assert "noise floor 2.0%: duel refuses a smaller --threshold from now on" in done.out
    assert fake_fight.options[0]["to_the_end"]
    known = known_floor("Example CPU 9000 @ 3.00GHz", 2, AttentionProblem.of(1024), "fwd")
    assert known is not None
    assert known.floor == pytest.approx(1 / 0.98 - 1)
    refused = flashbench("duel", "--aa", "--threshold", "1%")
    assert refused.code == 2
    assert "error: --threshold 1% is below this machine's noise floor of 2.0%" in refused.err


def test_json_is_all_of_stdout_and_the_file_is_whole(flashbench, fake_fight, tmp_path: Path) -> None:
    done = flashbench("duel", "flash", "standard", "--json", "-", "--save", str(tmp_path / "duel.json"))
    assert json.loads(done.out)["kind"] == "duel"
    assert "Verdict" in done.err
    assert load(tmp_path / "duel.json").duels == fake_fight.results.duels


def test_an_interrupted_duel_keeps_its_rounds(flashbench, fake_fight, tmp_path: Path) -> None:
    fake_fight.interrupt = True
    path = tmp_path / "duel.json"
    done = flashbench("duel", "flash", "standard", "--save", str(path))
    assert done.code == 130
    assert done.err.splitlines()[-2:] == [
        f"interrupted: 2 measurements begun or finished, kept in {path}",
        "hint: the same command with --resume goes on",
    ]
    fake_fight.interrupt = False
    assert flashbench("duel", "flash", "standard", "--save", str(path), "--resume").code == 0
    assert fake_fight.options[-1]["earlier"].duels == fake_fight.results.duels
    assert load(path).complete
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["duel.json"]


def test_a_finished_file_that_a_duel_will_replace_is_told(flashbench, fake_fight, tmp_path: Path) -> None:
    path = tmp_path / "duel.json"
    words = ["duel", "flash", "standard", "--save", str(path)]
    assert "replaces" not in flashbench(*words).err
    told = f"at its end this run replaces {path}, a finished duel of 2026-11-23 12:00\n"
    assert told in flashbench(*words).err


def test_in_github_actions_a_regression_is_an_error_and_the_table_in_the_summary(
    flashbench, fake_fight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    fake_fight.results = mixed()
    done = flashbench("duel", "flash", "standard")
    slower, crashed = [line for line in done.out.splitlines() if line.startswith("::")]
    assert slower.startswith("::error title=B standard against A flash::forward, full, ")
    assert slower.endswith(", N=512: flash faster 1.20x (1.176-1.224)")
    assert crashed.startswith("::error title=B standard against A flash::forward, full, ")
    assert crashed.endswith(", N=4096: failed: B crashed")
    assert "1 failed, 1 flash faster, 1 standard faster" in summary.read_text()
