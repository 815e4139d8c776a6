"""`flashbench infer`: its options, its table at 80 columns, and files that it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.fake_inference import make_inference, make_test
from helpers.fake_results import make_results

from flashbench.cli.infer_settings import build_infer_study
from flashbench.report.markdown import results_markdown
from flashbench.results.store import save

CommandLine = Callable[..., Any]


def test_help_names_models_and_the_extra(flashbench: CommandLine) -> None:
    text = " ".join(flashbench("infer", "--help").out.replace("│", " ").split())
    assert "llama-160m, llama-0.5b, llama-1b, mistral-160m (windows), gpt-oss-160m (sinks)" in text
    assert "flashbench[hf]" in text


def test_options_become_a_study() -> None:
    options = {"models": ["llama-1b,mistral-160m"], "attention": ["SDPA,flash"], "dtype": ["bfloat16"]}
    tests = {"prompt": ["none"], "generate": ["16"], "depth": ["0,4k"], "batch": "2", "threads": "1"}
    study = build_infer_study(options | tests)
    assert study.models == ["llama-1b", "mistral-160m"]
    assert study.attentions == ["sdpa", "flash"]
    assert (study.prompt, study.generate, study.depths) == ([], [16], [0, 4096])
    assert (study.dtypes, study.batch, study.threads) == (["bfloat16"], 2, 1)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--models", "lama"], "error: unknown model 'lama'"),
        (["--attention", "flush"], "error: --attention takes sdpa, eager or flash, not 'flush'"),
        (["--dtype", "float64"], "error: --dtype takes"),
        (["--depth", "-1"], "error: --depth takes"),
        (["--prompt", "none", "--generate", "none"], "error: prompt and generate are both empty"),
        (["--show", "nowhere.json"], "error: "),
    ],
)
def test_bad_input_is_one_line(flashbench: CommandLine, words: list[str], error: str) -> None:
    done = flashbench("infer", *words)
    assert done.code == 2
    assert done.err.startswith(error)


def test_a_file_is_shown(flashbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "tokens.json"
    save(make_inference(memory_budget_bytes=50_000_000), path)
    done = flashbench("infer", "--show", str(path))
    assert done.code == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "llama-160m: 150,000 parameters, float32, 2 threads" in lines
    (row,) = [line.split() for line in lines if line.startswith("prefill 512") and " 4000 " in line]
    assert row == [
        "prefill",
        "512",
        "4000",
        "sdpa",
        "1969",
        "1969",
        "-",
        "1969",
        "260",
        "77",
        "1.00x",
        "1.00x",
        "0.4",
    ]
    assert "every attention chose the same tokens" in done.out
    (longest,) = [line for line in lines if line.split()[:3] == ["llama-160m", "float32", "512"]]
    assert longest.split()[-1] == "47,038"


def test_a_shown_file_is_drawn(flashbench: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path, chart = tmp_path / "tokens.json", tmp_path / "chart.svg"
    save(make_inference(), path)
    done = flashbench("infer", "--show", str(path), "--plot", str(chart))
    assert done.code == 0
    assert "llama-160m: 150,000 parameters" in done.out
    drawn = chart.read_bytes()
    assert drawn.count(b">tokens/s</text>") == drawn.count(b">peak memory</text>") == 2
    done = flashbench("infer", "--show", str(path), "--plot", str(tmp_path / "chart.pdf"))
    assert (done.code, done.out) == (2, "")


def test_a_chart_never_takes_the_place_of_the_shown_file(flashbench: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "tokens.svg"
    save(make_inference(), path)
    before = path.read_bytes()
    done = flashbench("infer", "--show", str(path), "--plot", str(path))
    assert done.code == 2
    assert done.err == f"error: --plot is {path}, the file of the results: give it a name of its own\n"
    assert path.read_bytes() == before


def test_a_file_without_a_time_makes_no_chart_and_says_so(flashbench: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path, chart = tmp_path / "tokens.json", tmp_path / "chart.svg"
    failed = make_test("flash", "decode", 0, status="crashed", reason="ended", time=None, peak_bytes=None)
    save(msgspec.structs.replace(make_inference(), inference=[failed]), path)
    done = flashbench("infer", "--show", str(path), "--plot", str(chart))
    assert done.code == 0
    assert done.out.endswith("no chart: nothing was timed\n")
    assert not chart.exists()


def test_a_file_of_another_kind_is_refused(flashbench: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    save(make_results([]), path)
    done = flashbench("infer", "--show", str(path))
    assert (done.code, done.err) == (
        2,
        f'error: {path} is of kind "profile", and holds no tests of inference\n',
    )
    save(make_inference(), path)
    done = flashbench("export", str(path), "--format", "csv")
    assert done.code == 2
    assert 'holds tests of inference (kind "infer")' in done.err
    assert f"flashbench infer --show {path}" in done.err


def test_markdown_has_the_tables() -> None:
    text = results_markdown(make_inference())
    assert "| prefill 512 |" in text
    assert "tokens/s: of all sequences" in text
