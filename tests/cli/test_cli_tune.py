"""`flashbench tune`: options, output, files and exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.tuned_entries import CHECKS, make_entry, write_table

from flashbench.cli import tuning
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.tuned import Key
from flashbench.studies.progress import Progress
from flashbench.studies.tune.keep import Outcome, Tuned
from flashbench.studies.tune.plan import Plan
from flashbench.studies.tune.run import Interrupted
from flashbench.system.cores import available_cores

CommandLine = Callable[..., Any]
WON = Outcome(
    key=Key("float64", 64, False, "fwd", 10), tried=Blocks(32, 56), heads_from=1, threads=2, checks=CHECKS
)


class FakeTune:
    """Stands in for `studies.tune.run.tune`."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.outcomes = [WON]
        self.interrupted = False

    def __call__(self, plan: Plan, *, on_progress: Callable[[Progress], None]) -> Tuned:
        self.plans.append(plan)
        on_progress(Progress(0, 8, "float64 fwd full, 512 to 1023: 9 candidates"))
        found = Tuned(path="/tuned/cpu.json", cpu="Example CPU", asked=2, outcomes=self.outcomes)
        if self.interrupted:
            raise Interrupted(found)
        return found


@pytest.fixture
def fake_tune(monkeypatch: pytest.MonkeyPatch) -> FakeTune:
    fake = FakeTune()
    monkeypatch.setattr(tuning, "tune", fake)
    return fake


def test_without_options_all_of_the_default_plan_is_tuned(
    flashbench: CommandLine, fake_tune: FakeTune
) -> None:
    done = flashbench("tune")
    assert done.code == 0
    assert fake_tune.plans == [Plan(threads=available_cores())]
    assert "32 x 56" in done.out
    assert done.out.splitlines()[-1] == "1 of 2 faster than the built-in blocks, kept in /tuned/cpu.json"
    assert done.err == "[0/8] float64 fwd full, 512 to 1023: 9 candidates\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs masks of threads: Linux")
def test_options_narrow_and_widen_the_plan(flashbench: CommandLine, fake_tune: FakeTune) -> None:
    words = (
        "tune --dtype float32 --head-dim 64,128 --causal yes --direction bwd -n 1k,2k --threads 3 --cpus 0"
    )
    assert flashbench(*words.split()).code == 0
    assert fake_tune.plans == [
        Plan(
            dtypes=["float32"],
            head_dims=[64, 128],
            causal=[True],
            directions=["bwd"],
            seq_lens=[1024, 2048],
            threads=3,
            cpus=[0],
        )
    ]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs masks of threads: Linux")
def test_all_threads_are_those_of_the_cpus(flashbench: CommandLine, fake_tune: FakeTune) -> None:
    assert flashbench("tune", "--cpus", "0").code == 0
    assert [plan.threads for plan in fake_tune.plans] == [1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--direction fwd+bwd", "--direction takes fwd or bwd, not 'fwd+bwd'"),
        ("--dtype int8", "--dtype takes float16, bfloat16, float32 or float64, not 'int8'"),
        ("--causal maybe", "--causal takes no, yes or both, not 'maybe'"),
        ("--head-dim 300", "head_dim must be at most 256, not 300"),
        ("--threads 0", "--threads takes whole numbers from 1 up, such as 64 or 4k (4096), not '0'"),
        ("--reset --show", "--reset goes without --show and --json: it leaves nothing to show"),
        ("--json /no/such/place.json", "cannot write /no/such/place.json: there is no directory /no/such"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_runs(
    flashbench: CommandLine, fake_tune: FakeTune, words: str, error: str
) -> None:
    done = flashbench("tune", *words.split())
    assert (done.code, done.out, fake_tune.plans) == (2, "", [])
    assert done.err.splitlines()[0] == f"error: {error}"


def test_json_to_stdout_is_all_of_stdout(flashbench: CommandLine, fake_tune: FakeTune) -> None:
    done = flashbench("tune", "--json", "-")
    assert json.loads(done.out)["outcomes"][0]["tried"] == [32, 56]
    assert "kept in /tuned/cpu.json" in done.err


def test_json_to_a_file(flashbench: CommandLine, fake_tune: FakeTune, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    done = flashbench("tune", "--json", str(path))
    assert done.out == ""
    assert json.loads(path.read_text())["path"] == "/tuned/cpu.json"


def test_a_failed_process_is_exit_code_1(flashbench: CommandLine, fake_tune: FakeTune) -> None:
    fake_tune.outcomes = [
        Outcome(key=WON.key, tried=None, heads_from=None, threads=2, failure="no answer after 600 s")
    ]
    done = flashbench("tune")
    assert done.code == 1
    assert "512-1023: no answer after 600 s" in done.out


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([WON], "interrupted: 1 of 2 tuned, kept in /tuned/cpu.json\n"),
        ([], "interrupted: 0 of 2 tuned\n"),
    ],
)
def test_ctrl_c_says_what_is_kept(
    flashbench: CommandLine, fake_tune: FakeTune, outcomes: list[Outcome], message: str
) -> None:
    fake_tune.interrupted, fake_tune.outcomes = True, outcomes
    done = flashbench("tune")
    assert done.code == 130
    assert done.err.endswith(message)


def test_show_prints_the_table_and_reset_deletes_it(flashbench: CommandLine, tuned_table: Path) -> None:
    write_table(tuned_table, make_entry(), make_entry(direction="bwd", causal=True))
    done = flashbench("tune", "--show")
    assert done.code == 0
    assert done.out.count("13 x 21") == 2
    assert done.out.splitlines()[-1] == f"2 kept in {tuned_table}"
    assert flashbench("tune", "--reset") == (0, f"deleted {tuned_table}\n", "")
    assert flashbench("tune", "--reset") == (0, "there is no table of this CPU\n", "")
    assert "no tuned block sizes for this CPU" in flashbench("tune", "--show").out


@pytest.mark.filterwarnings("default")
def test_a_damaged_table_is_one_line_and_no_error(flashbench: CommandLine, tuned_table: Path) -> None:
    tuned_table.parent.mkdir()
    tuned_table.write_text("{")
    done = flashbench("verify", "--engine", "flash", "--case", "square-1023")
    assert done.code == 0
    warnings = [line for line in done.err.splitlines() if not line.startswith("[")]  # "[": progress
    assert warnings == [
        f"warning: tuned block sizes are not used: {tuned_table} is damaged; flashbench tune makes them anew"
    ]
    assert flashbench("tune", "--reset").err == ""
