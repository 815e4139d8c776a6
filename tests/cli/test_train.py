"""`flashbench train` from its options to its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_results import make_results
from helpers.fake_training import failed_step, make_step, make_training

from flashbench.cli.train_settings import build_train_study
from flashbench.results.store import load, save
from flashbench.studies import train as study
from flashbench.studies.train import TrainStudy

ROOT = Path(__file__).parents[2]


class FakeRun:
    """Replaces `run`: remembers the studies, and returns `results`."""

    def __init__(self) -> None:
        self.studies: list[TrainStudy] = []
        self.results = make_training([make_step("standard", 512), make_step("flash", 512)])

    def __call__(self, settings: TrainStudy, **named: Any) -> Any:
        self.studies.append(settings)
        named["on_results"](self.results)
        return self.results


@pytest.fixture
def fake_train(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    fake = FakeRun()
    monkeypatch.setattr(study, "run", fake)
    return fake


def test_without_options_the_study_is_the_default(flashbench, fake_train: FakeRun) -> None:
    done = flashbench("train")
    assert done.code == 0
    assert fake_train.studies == [TrainStudy()]
    assert "flash against standard, whole steps:" in done.out


def test_the_help_speaks_of_no_engines_of_other_packages_which_train_does_not_load(flashbench) -> None:
    text = " ".join(flashbench("train", "--help").out.replace("│", " ").split())
    assert "one check of losses, such as 60 (default 600)." in text
    assert "plug-in" not in text


def test_every_option_has_its_field(flashbench, fake_train: FakeRun) -> None:
    words = (
        "train -m tft,informer -a flash,original --variant full-attention -n 512,1k --horizon 12 --windows 2 "
        "--autocast bfloat16 "
        "--data synthetic --series 9 --patch-stride 4 --set tft.hidden_size=64 "
        "--set informer.activation=relu --set tft.grn_activation=ELU "
        "--threads 1 --repeats 4 --rounds 5 --seed 6 --no-memory --memory-budget 2GiB --timeout 60"
    )
    assert flashbench(*words.split()).code == 0
    assert fake_train.studies == [
        TrainStudy(
            models=["tft", "informer"],
            attentions=["flash", "original"],
            variant="full-attention",
            context_lengths=[512, 1024],
            horizon=12,
            windows=2,
            data="synthetic",
            series=9,
            patch_stride=4,
            autocast="bfloat16",
            settings={
                "tft": {"hidden_size": 64, "grn_activation": "ELU"},
                "informer": {"activation": "relu"},
            },
            threads=1,
            repeats=4,
            rounds=5,
            seed=6,
            memory=False,
            memory_budget_bytes=2 * 1024**3,
            timeout_s=60.0,
        )
    ]


def test_set_reads_values_as_json_and_words() -> None:
    words = ["patchtst.a=1", "patchtst.b=false", "patchtst.c=0.5", "patchtst.d=[1, 2]", "patchtst.e=relu"]
    found = build_train_study({"models": "patchtst", "set_": words}).settings
    assert found == {"patchtst": {"a": 1, "b": False, "c": 0.5, "d": [1, 2], "e": "relu"}}


def test_options_go_over_a_study_file_and_settings_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'kind = "train"\nmodels = ["tft"]\nwindows = 8\nhorizon = 6\n'
        "[settings.tft]\nhidden_size = 32\nn_head = 2\n"
    )
    found = build_train_study({"config": str(path), "windows": "2", "set_": ["tft.n_head=4"]})
    assert found == TrainStudy(
        models=["tft"], windows=2, horizon=6, settings={"tft": {"hidden_size": 32, "n_head": 4}}
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('kind = "profile"\n', """mine.toml must have kind = "train", not 'profile'"""),
        ('kind = "train"\nwindow = 3\n', "mine.toml has the unknown key 'window'"),
        (
            'kind = "train"\nwindows = "two"\n',
            "windows takes whole numbers from 1 up, such as 64 or 4k (4096), not 'two'",
        ),
        ('kind = "train"\nmodels = ["lstm"]\n', "not 'lstm'"),
        ("kind = ", "mine.toml"),
    ],
)
def test_errors_of_a_study_file_name_it(flashbench, fake_train, tmp_path, content: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    done = flashbench("train", "--config", str(path))
    assert done.code == 2
    assert str(path) in done.err
    assert words in done.err
    assert not fake_train.studies


@pytest.mark.parametrize("status", ["unsupported", "too_large"])
def test_a_run_in_which_no_step_was_measured_is_no_success(flashbench, fake_train, status: str) -> None:
    fake_train.results = make_training([failed_step("flash", 512, status, "so it was made")])
    done = flashbench("train")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "warning: nothing was measured"


def test_showing_a_file_without_steps_is_refused(flashbench, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    save(make_training([]), path)
    done = flashbench("train", "--show", str(path))
    assert (done.code, done.err) == (2, f"error: {path} holds no training steps\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--models", "lstm"],
            "--models takes tft, informer, autoformer, fedformer, patchtst or itransformer, not 'lstm'",
        ),
        (
            ["--attention", "flush"],
            "--attention takes flash, standard, torch-flash, torch-math or original, not 'flush'",
        ),
        (["--variant", "half"], "--variant takes none or full-attention, not 'half'"),
        (["--context-lengths", "short"], "--context-lengths"),
        (["--set", "hidden_size=64"], "--set takes MODEL.NAME=VALUE, such as tft.hidden_size=64"),
        (["--models", "tft", "--set", "inform.a=1"], "MODEL of --set takes tft, informer"),
        (["--csv", "a.csv", "--data", "synthetic"], "--csv is the data: give it, or --data"),
        (["--data", "weather"], "--data takes sf-temps, airpassengers or synthetic, not 'weather'"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    flashbench, fake_train, words: list[str], said: str
) -> None:
    done = flashbench("train", *words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert said in done.err
    assert not fake_train.studies


def test_profile_sends_a_training_study_to_train(flashbench) -> None:
    done = flashbench("profile", "--config", str(ROOT / "configs" / "training.toml"))
    assert done.code == 2
    assert "is a study of kind 'train'" in done.err
    assert "hint: flashbench train --config" in done.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("crashed", 1),
        ("out_of_memory", 1),
        ("timeout", 1),
        ("wrong", 1),
        ("unsupported", 0),
        ("too_large", 0),
    ],
)
def test_exit_codes(flashbench, fake_train: FakeRun, status: str, code: int) -> None:
    step = failed_step("flash", 512, status, "so it was made")
    fake_train.results = make_training([make_step("standard", 512), step])
    done = flashbench("train")
    assert done.code == code
    assert "so it was made" in done.out


def test_results_are_saved_and_written_to_stdout(flashbench, fake_train: FakeRun, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    done = flashbench("train", "--save", str(path), "--json", "-")
    assert done.code == 0
    assert json.loads(done.out)["training"][1]["attention"] == "flash"
    assert "PatchTST" in done.err
    assert load(path) == fake_train.results


def test_a_chart_is_checked_before_the_run_and_drawn_after_it(
    flashbench, fake_train: FakeRun, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    assert flashbench("train", "--plot", str(tmp_path / "none" / "chart.svg")).code == 2
    assert flashbench("train", "--plot", "chart.pdf").code == 2
    assert fake_train.studies == []
    chart = tmp_path / "chart.svg"
    done = flashbench("train", "--plot", str(chart))
    assert done.code == 0
    assert "PatchTST" in done.out
    assert b">time of a step, ms</text>" in chart.read_bytes()


def test_training_steps_are_no_measurements(flashbench, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    save(make_training([make_step("flash", 512)]), path)
    done = flashbench("export", str(path), "--format", "csv")
    assert done.code == 2
    assert done.err.splitlines()[0].startswith(f"error: {path} holds training steps")
    assert f"hint: flashbench train --show {path} prints their tables" in done.err


def test_training_steps_have_markdown(flashbench, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    save(make_training([make_step("standard", 512), make_step("flash", 512)]), path)
    done = flashbench("export", str(path), "--format", "markdown")
    assert done.code == 0
    assert not done.err
    assert "| 512 | standard | " in done.out
    assert "| Context | Attention | Step (ms) |" in done.out


def test_a_bad_csv_is_refused_before_anything_runs(flashbench, tmp_path: Path) -> None:
    pytest.importorskip("neuralforecast")
    path = tmp_path / "mine.csv"
    path.write_text("time,value\n1,2\n")
    done = flashbench("train", "--csv", str(path))
    assert done.code == 2
    assert done.err.startswith(f"error: --csv {path} must have columns ds and y")


def test_help_needs_neither_numpy_nor_torch() -> None:
    program = (
        "import sys; from flashbench.cli.app import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'torch', 'pandas', 'neuralforecast'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--context-lengths" in done.stdout


@pytest.mark.grid
def test_a_tiny_run_in_earnest(flashbench) -> None:
    pytest.importorskip("neuralforecast")
    words = (
        "train --models patchtst,informer --attention standard,flash --context-lengths 32 --horizon 4 "
        "--windows 2 --data synthetic --set patchtst.hidden_size=16 --set patchtst.n_heads=2 "
        "--set patchtst.encoder_layers=1 --rounds 1 --repeats 2 --no-memory --threads 1 --json -"
    )
    done = flashbench(*words.split())
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["kind"] == "train"
    standard, flash, *informer = document["training"]
    assert (standard["status"], flash["status"]) == ("ok", "ok")
    assert flash["losses"] == pytest.approx(standard["losses"], rel=1e-3)
    assert len(flash["time"]["samples_ns"][0]) == 2
    assert 0 < flash["attention_share"] < 1
    assert {row["status"] for row in informer} == {"unsupported"}
    assert "ProbSparse" in done.err


def test_a_file_s_tables_are_printed_again(flashbench, fake_train: FakeRun, tmp_path: Path) -> None:
    path, other = tmp_path / "steps.json", tmp_path / "other.json"
    first = flashbench("train", "--save", str(path))
    again = flashbench("train", "--show", str(path))
    assert (again.code, again.out) == (0, first.out)
    assert len(fake_train.studies) == 1
    save(make_results([]), other)
    done = flashbench("train", "--show", str(other))
    assert done.code == 2
    assert done.err.strip() == f'error: {other} is of kind "profile", and holds no training steps'
