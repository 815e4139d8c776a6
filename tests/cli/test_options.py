"""An option is the same in every command that has it, and a study file accepts the same values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from flashbench.cli import readers
from flashbench.cli.app import make_app
from flashbench.cli.readers import OPTIONS, read_params
from flashbench.cli.settings import build_duel, build_study
from flashbench.cli.train_settings import build_train_study
from flashbench.cli.tuning import build_plan
from flashbench.dtypes import NARROWEST_FIRST
from flashbench.errors import ConfigError
from flashbench.studies.train.study import TrainStudy

GROUP = typer.main.get_command(make_app())
MEASURING = ("profile", "sweep", "duel", "tune", "verify")
# `tune --show` shows the only table, `train --show` that of a file. Only `profile --threads` takes several.
TWO_OPTIONS = {"show", "threads"}


def params_of(command: str, *words: str) -> dict[str, Any]:
    """The arguments that a command's function would get."""
    return GROUP.commands[command].make_context(command, list(words)).params


def options_of(command: str) -> dict[str, Any]:
    """A command's options, by the name of their parameter."""
    return {
        param.name: param
        for param in GROUP.commands[command].params
        if param.param_type_name == "option" and param.name != "help"
    }


def test_an_option_has_the_same_names_and_values_in_every_command() -> None:
    found: dict[str, set[Any]] = {}
    for command in (*MEASURING, "train"):
        for name, option in options_of(command).items():
            if name not in TWO_OPTIONS:
                words = (*option.opts, *option.secondary_opts), option.metavar, option.multiple
                found.setdefault(name, set()).add(words)
    assert {name: words for name, words in found.items() if len(words) > 1} == {}


@pytest.mark.parametrize("command", MEASURING)
def test_every_option_that_takes_a_value_has_an_example(command: str) -> None:
    for option in options_of(command).values():
        spelled_out = re.fullmatch(r"[a-z|]+", option.metavar or "")  # such as no|yes|both
        if not (option.is_flag or spelled_out):
            assert re.search("such as", option.help, re.IGNORECASE), (option.opts, option.help)


@pytest.mark.parametrize("command", MEASURING)
@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], None),
        (["--causal"], "yes"),
        (["--causal", "--dtype", "float32"], "yes"),
        (["--no-causal"], "no"),
        (["--causal", "no"], "no"),
        (["--causal=both"], "both"),
        (["--causal", "both", "--threads", "1"], "both"),
        (["--threads", "1", "--causal"], "yes"),
    ],
)
def test_causal_is_a_flag_and_takes_a_value_everywhere(
    command: str, words: list[str], value: str | None
) -> None:
    assert params_of(command, *words)["causal"] == value


@pytest.mark.parametrize(
    ("words", "causal"), [(["--causal"], "yes"), (["--causal", "--"], "yes"), (["--causal", "Both"], "Both")]
)
def test_causal_before_the_engines_of_a_duel(words: list[str], causal: str) -> None:
    found = params_of("duel", *words, "flash", "numpy")
    assert (found["causal"], found["a"], found["b"]) == (causal, "flash", "numpy")


# One value for each option of a study that takes a value.
VALUES = {
    "seq_lens": "64",
    "seq_len_k": "64",
    "queries": "2",
    "batch": "2",
    "heads": "4",
    "kv_heads": "2",
    "head_dim": "32",
    "dtype": "float32",
    "causal": "both",
    "causal_alignment": "top-left",
    "window": "8",
    "softcap": "5",
    "mask": "bool",
    "mask_axes": "qk",
    "mask_block": "8",
    "dropout": "10%",
    "dropout_seed": "1",
    "key_lengths": "0.5,1",
    "varlen": "0.5,1",
    "page_size": "16",
    "direction": "fwd,bwd",
    "engine": "numpy",
    "block_sizes": "32",
    "block_q": "32",
    "block_k": "32",
    "path": "auto",
    "threads": "1",
    "cpus": "0",
    "repeats": "2",
    "rounds": "2",
    "budget": "60s",
    "seed": "1",
    "memory_budget": "1GiB",
    "timeout": "60",
}


@pytest.mark.parametrize("command", ["profile", "sweep", "duel"])
def test_the_value_of_every_option_is_read_as_its_command_gives_it(command: str) -> None:
    here = options_of(command)
    assert {name for name in OPTIONS if name in here and not here[name].is_flag} <= set(VALUES)
    for name in here:
        if name in OPTIONS and name in VALUES:
            words = [here[name].opts[0], VALUES[name], *(["flash", "numpy"] if command == "duel" else [])]
            assert read_params(params_of(command, *words), {name: OPTIONS[name]}), name


def test_engines_of_a_study_file_are_asked_as_those_of_a_command_line_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(names: list[str], *, timeout_s: float) -> tuple[list[str], list[str]]:
        asked.append((names, timeout_s))
        return names, []

    monkeypatch.setattr(readers, "resolve_engines", ask)
    path = tmp_path / "study.toml"
    path.write_text('engines = ["numpy", "a-plug-in"]\ntimeout_s = 3\n')
    build_study("profile", {"config": str(path)})
    assert asked == [(["numpy", "a-plug-in"], 3)]


def test_a_word_after_causal_that_is_no_value_is_refused(flashbench) -> None:
    done = flashbench("profile", "--causal", "maybe")
    assert (done.code, done.err) == (2, "error: --causal takes no, yes or both, not 'maybe'\n")


@pytest.mark.parametrize("command", ["profile", "sweep", "duel"])
@pytest.mark.parametrize("words", [["--block-size", "32"], ["--block-size=32"], ["-b", "32"]])
def test_block_sizes_have_one_name_and_keep_the_earlier_one(command: str, words: list[str]) -> None:
    assert params_of(command, *words)["block_sizes"] == ["32"]
    assert params_of(command, "--block-sizes", "32")["block_sizes"] == ["32"]


@pytest.mark.parametrize("command", MEASURING)
def test_help_has_today_s_names_alone(flashbench, command: str) -> None:
    text = flashbench(command, "--help").out
    assert "--block-size " not in text
    assert "--no-causal" not in text


def test_commands_without_an_option_do_not_get_it_by_an_earlier_name(flashbench) -> None:
    for words in (["tune", "--block-size", "32"], ["train", "--no-causal"], ["profile", "--no-causal=1"]):
        done = flashbench(*words)
        assert done.code == 2
        assert done.err.startswith(f"error: no such option: {words[1].partition('=')[0]}")


@pytest.mark.parametrize(
    ("option", "once", "field", "value"),
    [
        ("seq_lens", "512,1k", "seq_lens", [512, 1024]),
        ("heads", "1,8", "heads", [1, 8]),
        ("head_dim", "64,128", "head_dims", [64, 128]),
        ("dtype", "float32,float64", "dtypes", ["float32", "float64"]),
        ("direction", "fwd,bwd", "directions", ["fwd", "bwd"]),
        ("block_sizes", "32,auto", "block_sizes", [32, "auto"]),
        ("path", "fma,auto", "paths", ["fma", "auto"]),
        ("engine", "flash,numpy", "engines", ["flash", "numpy"]),
    ],
)
def test_a_comma_list_is_as_good_as_an_option_given_again(
    option: str, once: str, field: str, value: list[Any]
) -> None:
    assert getattr(build_study("profile", {option: [once]}), field) == value
    assert getattr(build_study("profile", {option: once.split(",")}), field) == value


@pytest.mark.parametrize(
    ("command", "words"),
    [("tune", ["-n", "512", "-n", "1k"]), ("tune", ["-n", "512,1k"])],
)
def test_tune_reads_lists_as_the_others_do(command: str, words: list[str]) -> None:
    assert build_plan(params_of(command, *words)).seq_lens == [512, 1024]


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ('seq_lens = "512,4k"', "seq_lens", [512, 4096]),
        ('seq_lens = ["1k", 64]', "seq_lens", [1024, 64]),
        ("heads = 8", "heads", [8]),
        ("causal = true", "causal", [True]),
        ('causal = "both"', "causal", [False, True]),
        ('causal = ["yes", "no"]', "causal", [True, False]),
        ("causal = [false, true]", "causal", [False, True]),
        ('directions = "fwd,fwd+bwd"', "directions", ["fwd", "fwd_bwd"]),
        ('directions = ["fwd_bwd", "bwd"]', "directions", ["fwd_bwd", "bwd"]),
        ('dtypes = "float32"', "dtypes", ["float32"]),
        ('block_sizes = "auto,32"', "block_sizes", ["auto", 32]),
        ('block_sizes = [16, "auto"]', "block_sizes", [16, "auto"]),
        ('paths = "fma,auto"', "paths", ["fma", "auto"]),
        ('paths = "auto"', "paths", ["auto"]),
        ('windows = ["none", "128,0", 64]', "windows", ["none", [128, 0], 64]),
        ("windows = [[128, 0]]", "windows", [[128, 0]]),
        ('engines = "flash,numpy"', "engines", ["flash", "numpy"]),
        ('key_lengths = "25%,1.0"', "key_lengths", [0.25, 1.0]),
        ('dropout = "10%"', "dropout", 0.1),
        ('softcap = "none"', "softcap", None),
        ('mask = "none"', "mask", None),
        ('memory_budget_bytes = "16GiB"', "memory_budget_bytes", 16 * 1024**3),
        ('budget_s = "1.5m"', "budget_s", 90.0),
        ('threads = "2"', "threads", 2),
    ],
)
def test_a_study_file_takes_what_the_option_takes(tmp_path: Path, line: str, field: str, value: Any) -> None:
    path = tmp_path / "study.toml"
    path.write_text(line + "\n")
    assert getattr(build_study("profile", {"config": str(path)}), field) == value


def test_a_training_study_does_so_too(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'kind = "train"\nmodels = "TFT,PatchTST"\nattentions = ["Flash"]\ncontext_lengths = "1k"\n'
        'memory_budget_bytes = "2GiB"\n[settings.PatchTST]\nhidden_size = 16\n'
    )
    assert build_train_study({"config": str(path)}) == TrainStudy(
        models=["tft", "patchtst"],
        attentions=["flash"],
        context_lengths=[1024],
        memory_budget_bytes=2 * 1024**3,
        settings={"patchtst": {"hidden_size": 16}},
    )


def test_models_are_named_in_any_letters_and_lists() -> None:
    asked = params_of("train", "-m", "PatchTST,tft", "-m", "iTransformer", "--set", "TFT.n_head=2")
    study = build_train_study(asked)
    assert study.models == ["patchtst", "tft", "itransformer"]
    assert study.settings == {"tft": {"n_head": 2}}


def test_a_duel_is_of_one_block_size() -> None:
    asked = params_of("duel", "flash", "standard", "--block-sizes", "32")
    assert [(one.block_q, one.block_k) for one in build_duel(asked).study.settings()] == [(32, 32)]
    with pytest.raises(ConfigError, match="a duel is of one block size, not of 2: 32, 64"):
        build_duel(params_of("duel", "flash", "standard", "--block-sizes", "32,64"))


def test_a_duel_is_of_one_path_a_side() -> None:
    half = ("duel", "flash", "--dtype", "bfloat16")
    duel = build_duel(params_of(*half, "--path-a", "convert"))
    assert (duel.a.path, duel.b.path, duel.of_versions) == ("convert", None, False)
    both = build_duel(params_of("duel", "flash", "standard", "--dtype", "bfloat16", "--path", "convert"))
    assert (both.a.path, both.b.path) == (None, None)
    assert [point.settings.path for point in both.points()] == ["convert"]
    for words, reason in (
        (["--path-a", "convert", "--path-b", "convert"], "A and B are both flash"),
        (
            ["--path", "auto,convert", "--path-a", "convert"],
            "a duel is of one path a side, not of auto, convert",
        ),
        (["--path-b", "fma"], "path fma computes float32, float64, not bfloat16"),
        (["--path-b", "fast"], "there is no path 'fast'"),
        (["--path-b", "convert", "--aa"], "--aa is A against itself"),
    ):
        with pytest.raises(ConfigError, match=reason):
            build_duel(params_of(*half, *words))


def test_a_path_that_does_not_go_with_the_study_is_one_line(flashbench) -> None:
    done = flashbench("profile", "--path", "convert", "--dtype", "float32")
    assert (done.code, done.err) == (2, "error: no path of convert computes float32\n")
    done = flashbench("sweep", "--path", "fast", "--dtype", "bfloat16")
    assert done.code == 2
    assert done.err.startswith("error: path: there is no path 'fast'; known: amx_split, fma, ")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--dtype", "float32"], ["square-2-causal-float32", "square-2-float32"]),
        (["--causal"], sorted(f"square-2-causal-{dtype}" for dtype in NARROWEST_FIRST)),
        (["--no-causal"], sorted(f"square-2-{dtype}" for dtype in NARROWEST_FIRST)),
        (["--causal", "--dtype", "float64"], ["square-2-causal-float64"]),
    ],
)
def test_verify_runs_the_cases_that_the_options_leave(flashbench, words: list[str], left: list[str]) -> None:
    done = flashbench("verify", "--list", "--case", "square-2,square-2-causal", *words)
    assert sorted(done.out.split()) == left


def test_verify_of_outputs_alone_on_one_thread(flashbench, tmp_path: Path) -> None:
    import json

    path = tmp_path / "exactness.json"
    words = ("--case", "square-5-float64", "--direction", "fwd", "--threads", "1", "--json", str(path))
    assert flashbench("verify", "-e", "numpy,standard", *words).code == 0
    for result in json.loads(path.read_text())["results"]:
        assert set(result["outputs"]) <= {"o", "lse"}
        assert result["threads"] == 1


def test_options_that_leave_no_case_say_so(flashbench) -> None:
    done = flashbench("verify", "--case", "square-2-float32", "--dtype", "float64")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: no case is left of what --case, --dtype, --causal and --direction")


@pytest.mark.parametrize("command", sorted(GROUP.commands))
def test_help_shows_brackets_as_they_are(flashbench, command: str) -> None:
    """Typer reads help as markup, where [models] would be a style and not be printed."""
    text = " ".join(flashbench(command, "--help").out.split())
    assert "\\[" not in text
    if command == "train":
        assert "pip install 'flashbench[models]'" in text
    if command == "report":
        assert "pip install 'flashbench[plot]'" in text
