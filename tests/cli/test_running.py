"""profile and sweep around a fake runner: where results go, what is printed, how it exits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from flashbench.cli.progress import show_progress
from flashbench.results.record import Results
from flashbench.results.store import load
from flashbench.studies import runner
from flashbench.studies.progress import Progress
from flashbench.studies.study import Study


def test_profile_prints_its_table_and_its_progress_apart(flashbench, fake_run, snapshot) -> None:
    done = flashbench("profile", "--seq-lens", "128,512")
    assert done.code == 0
    assert done.out == snapshot
    assert done.err.splitlines() == ["[0/4] standard: first call"]  # the next line is due in seconds


def test_a_terminal_gets_a_bar_instead_of_lines(flashbench, fake_run, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = flashbench("profile", "-n", "128,512")
    assert "[0/4]" not in done.err
    assert "3/4" in done.err
    assert "flash: time" in done.err


def test_a_label_with_brackets_is_shown_as_it_is(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show_progress() as on_progress:
        on_progress(Progress(0, 2, "engine [bold]fast[/] fwd"))
    assert "engine [bold]fast[/] fwd" in capsys.readouterr().err


def test_no_color_leaves_the_words(flashbench, fake_run, monkeypatch) -> None:
    words = ["sweep", "-n", "128", "--block-sizes", "32,64", "--causal", "no"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "30;48;" in flashbench(*words).out
    monkeypatch.setenv("NO_COLOR", "1")
    plain = flashbench(*words).out
    assert "30;48;" not in plain
    assert "best" in plain


def test_sweep_prints_its_heatmap(flashbench, fake_run, snapshot: SnapshotAssertion) -> None:
    done = flashbench("sweep", "--seq-lens", "128", "--block-sizes", "32,64,auto", "--causal", "yes")
    assert done.code == 0
    assert done.out == snapshot


def test_the_runner_gets_the_study_and_the_command_as_typed(flashbench, fake_run) -> None:
    flashbench("profile", "-n", "64", "-e", "numpy", "--no-memory", "--debug")
    assert fake_run.studies == [Study(seq_lens=[64], engines=["numpy"], memory=False)]
    assert fake_run.commands == [["flashbench", "profile", "-n", "64", "-e", "numpy", "--no-memory"]]


def test_plain_is_the_documented_text_in_a_terminal_of_any_width(flashbench, fake_run, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    done = flashbench("profile", "--plain", "-n", "128")
    lines = done.out.splitlines()
    assert lines[1] == "=" * 36
    assert lines[4] == "-" * 80
    assert lines[5] == "128        128.00 KB       6.00 KB         21.3x      0.05      "
    assert len(lines) == 6


def test_json_to_stdout_is_all_of_stdout(flashbench, fake_run) -> None:
    done = flashbench("profile", "-n", "128", "--json", "-")
    assert len(json.loads(done.out)["measurements"]) == 2
    assert "Seq" in done.err


def test_json_to_a_file_leaves_stdout_empty(flashbench, fake_run, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    done = flashbench("profile", "-n", "128", "--json", str(path))
    assert done.out == ""
    assert "Seq" in done.err
    assert len(load(path).measurements) == 2


def test_save_keeps_the_file_beside_the_table(flashbench, fake_run, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    done = flashbench("profile", "-n", "128", "--save", str(path))
    assert "Seq" in done.out
    assert len(load(path).measurements) == 2


@pytest.mark.parametrize("option", ["--json", "--save"])
def test_a_place_that_cannot_be_written_is_refused_before_the_run(
    flashbench, fake_run, tmp_path: Path, option: str
) -> None:
    done = flashbench("profile", option, str(tmp_path / "none" / "run.json"))
    assert done.code == 2
    assert "there is no directory" in done.err
    assert fake_run.studies == []


def test_save_to_stdout_is_refused(flashbench, fake_run) -> None:
    done = flashbench("profile", "--save", "-")
    assert done.code == 2
    assert done.err.startswith("error: --save takes a file, not '-'\nhint: --json - ")


def test_json_and_save_to_the_same_file_is_refused(flashbench, fake_run) -> None:
    done = flashbench("profile", "--json", "run.json", "--save", "run.json")
    assert done.code == 2
    assert done.err == "error: --json and --save are both run.json: one of them is enough\n"
    done = flashbench("profile", "--json", "run.json", "--save", "./run.json")
    assert done.err == "error: --json and --save are both ./run.json: one of them is enough\n"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("ok", 0),
        ("unsupported", 1),
        ("too_large", 1),
        ("crashed", 1),
        ("timeout", 1),
        ("out_of_memory", 1),
        ("wrong", 1),
    ],
)
def test_what_was_tried_and_failed_fails_the_command_and_is_kept(
    flashbench, fake_run, tmp_path: Path, status: str, code: int
) -> None:
    fake_run.status = status
    path = tmp_path / "run.json"
    done = flashbench("profile", "-n", "128", "--save", str(path))
    assert done.code == code
    assert [row.status for row in load(path).measurements] == [status, status]


@pytest.mark.parametrize("command", ["profile", "sweep"])
def test_a_run_that_measured_nothing_is_no_success(flashbench, fake_run, command: str) -> None:
    fake_run.status = "too_large"
    done = flashbench(command, "-n", "128")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "warning: nothing was measured"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["profile", "-e", "numpy", "--softcap", "5", "-n", "64,128"], "numpy: the engine has no softcap"),
        (["sweep", "-e", "numpy", "--sinks", "-n", "64"], "numpy: the engine has no sinks"),
        (
            ["profile", "-e", "numpy", "-n", "64", "--memory-budget", "10KiB"],
            "numpy: needs 193.5 KiB, the ",
        ),
        (["verify", "-e", "numpy", "--case", "softcap"], "numpy: the engine has no softcap"),
    ],
)
def test_what_cannot_be_measured_is_found_before_anything_starts(
    flashbench, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    done = flashbench(*words)
    assert done.code == 2
    assert done.out == ""
    what = "verified" if words[0] == "verify" else "measured"
    assert f"error: nothing can be {what}: {said}" in done.err


def test_what_one_engine_cannot_is_a_row_beside_what_another_measured(flashbench, tmp_path: Path) -> None:
    words = ["-n", "16", "-e", "numpy", "-e", "flash", "--softcap", "5", "--repeats", "1", "--rounds", "1"]
    path = tmp_path / "run.json"
    done = flashbench("profile", *words, "--threads", "1", "--no-memory", "--save", str(path))
    assert done.code == 0, done.err
    assert [row.status for row in load(path).measurements] == ["unsupported", "ok"]


def test_an_interrupted_run_keeps_what_is_known_and_says_how_to_go_on(
    flashbench, fake_run, tmp_path: Path
) -> None:
    fake_run.stop_after = 3
    path = tmp_path / "run.json"
    done = flashbench("profile", "--save", str(path))
    assert done.code == 130
    assert done.err.splitlines()[-2:] == [
        f"interrupted: 3 measurements begun or finished, kept in {path}",
        "hint: the same command with --resume goes on",
    ]
    assert len(load(path).measurements) == 3


def test_an_unfinished_run_is_gone_on_with_and_not_overwritten(flashbench, fake_run, tmp_path: Path) -> None:
    fake_run.stop_after = 3
    path = tmp_path / "run.json"
    flashbench("profile", "--save", str(path))
    fake_run.stop_after = None
    done = flashbench("profile", "--save", str(path))
    assert done.code == 2
    assert done.err.startswith(f"error: {path} holds 3 measurements of an unfinished run\nhint: --resume ")
    assert flashbench("profile", "--save", str(path), "--resume").code == 0
    assert len(fake_run.resumed[-1].measurements) == 3
    assert load(path).complete


def test_resume_without_a_file_is_refused(flashbench, fake_run) -> None:
    done = flashbench("sweep", "--resume")
    assert done.code == 2
    assert done.err.startswith("error: --resume needs one file to go on with, not 0\nhint: name the file ")


def test_an_interrupted_run_does_not_replace_a_whole_file(flashbench, fake_run, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("an earlier run")
    fake_run.stop_after = 1
    done = flashbench("profile", "--save", str(path))
    assert done.code == 130
    assert path.read_text() == "an earlier run"
    partial = tmp_path / "run.partial.json"
    assert len(load(partial).measurements) == 1
    assert f"1 measurement begun or finished, kept in {partial}\n" in done.err
    fake_run.stop_after = None
    assert flashbench("profile", "--save", str(path), "--resume").code == 0
    assert load(path).complete
    assert not partial.exists()


def test_an_interrupted_run_with_nothing_to_keep_says_so(flashbench, fake_run, tmp_path: Path) -> None:
    fake_run.stop_after = 0
    done = flashbench("profile", "--save", str(tmp_path / "run.json"))
    assert done.err.endswith("interrupted: 0 measurements begun or finished, none kept\n")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_engine_is_refused_before_anything_runs(flashbench, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("an earlier run")
    done = flashbench("profile", "--engine", "flesh", "--save", str(path))
    assert done.code == 2
    assert done.err.startswith("error: unknown engine 'flesh'; known: flash, standard, numpy, torch-flash")
    assert path.read_text() == "an earlier run"


def test_batches_and_budgets_ask_whether_it_can_train(flashbench, fake_run) -> None:
    for words in (["--batch", "8"], ["--memory-budget", "1GiB"]):
        done = flashbench("profile", "-n", "128", "-e", "numpy", *words)
        assert "Can train? (16.00 GiB)" in done.out or "Can train? (1.00 GiB)" in done.out
        assert "longest" in done.out
    assert "Can train?" not in flashbench("profile", "-n", "128", "-e", "numpy").out


def test_a_real_run_of_a_small_problem(flashbench, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    words = ["-n", "16", "-e", "numpy", "--repeats", "1", "--rounds", "2", "--threads", "1"]
    done = flashbench("profile", *words, "--save", str(path))
    assert done.code == 0, done.err
    (row,) = load(path).measurements
    assert row.status == "ok"
    assert row.time is not None
    assert len(row.time.samples_ns) == 2
    assert row.memory is not None
    assert row.accuracy is not None


def test_predict_measures_nothing(flashbench, fake_run, tmp_path: Path) -> None:
    words = ["profile", "--predict", "-n", "4k,64k", "--heads", "8", "--memory-budget", "16GiB"]
    done = flashbench(*words)
    assert done.code == 0
    assert "Does it fit in 16.00 GiB?" in done.out
    assert done.err == ""
    path = tmp_path / "fits.json"
    assert flashbench(*words, "--json", str(path)).out == ""
    document = json.loads(flashbench(*words, "--json", "-").out)
    assert document == json.loads(path.read_text())
    assert [row["training"]["fits"] for row in document["predictions"]] == [True, True, False, True]
    assert fake_run.studies == []


@pytest.mark.parametrize(
    "words", [["--save", "x.json"], ["--plain"], ["--plot", "x.svg"], ["--memory-detail"]]
)
def test_predict_refuses_what_needs_a_measurement(flashbench, fake_run, words: list[str]) -> None:
    done = flashbench("profile", "--predict", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: --predict measures nothing, and {words[0]} is of measurements")


def test_a_budget_that_ended_early_names_what_is_missing_and_how_to_go_on(
    flashbench, fake_run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cut(study: Study, **others) -> Results:
        whole = fake_run(study, **others)
        return replace(whole, measurements=whole.measurements[:-1], complete=False)

    monkeypatch.setattr(runner, "run", cut)
    words = ["sweep", "-n", "128", "--block-sizes", "32,64", "--causal", "no", "--budget", "1s"]
    assert flashbench(*words).err.splitlines()[-3:] == [
        "warning: the time budget ended before every point was measured",
        "warning: not measured, 1 of 2 points: flash fwd N=128, block 64",
        "hint: --save FILE keeps what is measured; the same command with --resume, and any --budget, goes on",
    ]
    last = flashbench(*words, "--save", str(tmp_path / "cut.json")).err.splitlines()[-1]
    assert last == "hint: the same command with --resume, and any --budget, goes on"


def test_a_second_run_into_the_same_file_is_refused_and_the_first_loses_nothing(
    flashbench, fake_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    words = ["profile", "-n", "128", "--save", str(path)]
    run, second = fake_run.__class__.__call__, []

    def while_it_runs(fake, *arguments, **options):
        if not second:
            second.append(None)
            second.append(flashbench(*words))
            second.append(flashbench(*words, "--resume"))
        return run(fake, *arguments, **options)

    monkeypatch.setattr(fake_run.__class__, "__call__", while_it_runs)
    assert flashbench(*words).code == 0
    for refused in second[1:]:
        assert refused.code == 2
        assert f"error: {path} is being written by another run\nhint: wait for its end" in refused.err
    assert len(load(path).measurements) == 2
    assert flashbench(*words).code == 0  # the lock ended with the run
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("stop", ["an error", "Ctrl-C"])
def test_a_run_that_ends_otherwise_leaves_no_lock(
    flashbench, fake_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    path = tmp_path / "run.json"
    words = ["profile", "-n", "128", "--save", str(path)]
    if stop == "Ctrl-C":
        fake_run.stop_after = 0
        assert flashbench(*words).code == 130
        fake_run.stop_after = None
    else:
        assert flashbench(*words, "-e", "numpy", "--softcap", "5", "--plot", "no.gif").code == 2
        with monkeypatch.context() as patch:
            patch.setattr(fake_run.__class__, "__call__", None)
            assert flashbench(*words).code == 70
    assert flashbench(*words).code == 0
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]
