"""`flashbench plan`: options, rates, output and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_results import make_measurement, make_results
from helpers.plans import RATES

from flashbench.cli import planning
from flashbench.results.store import save

CommandLine = Callable[..., Any]
WORDS = "plan --hosts 8 --seq-len 1M --heads 32 --link 25GB/s"


@pytest.fixture
def rates(tmp_path: Path) -> str:
    """A file of `flashbench profile`."""
    rows = [
        make_measurement("flash", 4096, dtype="float32", direction=direction) for direction in ("fwd", "bwd")
    ]
    path = tmp_path / "host.json"
    save(make_results(rows), path)
    return str(path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of `measure_rates`, which measures nothing."""
    asked = []

    def fake(problem: Any, chunks: Any, directions: Any, **more: Any) -> Any:
        asked.append({"problem": problem, "chunks": chunks, "directions": directions, **more})
        return RATES

    monkeypatch.setattr(planning, "measure_rates", fake)
    return asked


def test_the_command_of_the_docs(flashbench: CommandLine, rates: str) -> None:
    words = "plan --hosts 64 --seq-len 16M --heads 32 --link 25GB/s"
    done = flashbench(*words.split(), "--rates", rates)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("64 hosts, 16,777,216 tokens, 32 heads of 64, float32, full\n")
    assert "a host receives 25.0 GB/s" in " ".join(done.out.split())


def test_without_a_file_the_rates_are_measured(
    flashbench: CommandLine, measured: list[dict[str, Any]]
) -> None:
    words = "--direction bwd,fwd,bwd --threads 3 --kv-heads 8 --chunk 64k --key-chunk 32k --dtype bfloat16"
    assert flashbench(*WORDS.split(), *words.split()).code == 0
    (asked,) = measured
    assert asked["directions"] == ["fwd", "bwd"]
    assert asked["chunks"] == (65536, 32768)
    assert asked["threads"] == 3
    problem = asked["problem"]
    assert (problem.num_kv_heads, problem.dtype, problem.seqlen_q) == (8, "bfloat16", 2**20)


def test_causal_window_and_sizes_reach_the_plan(flashbench: CommandLine, measured: object) -> None:
    words = "--causal --window 64k --head-dim 128 --head-dim-v 64 --batch 2 --in-flight 8 --latency 2ms"
    done = flashbench(*WORDS.split(), *words.split(), "--task-overhead", "300us", "--json", "-")
    document = json.loads(done.out)
    problem = document["problem"]
    assert (problem["causal"], problem["window_left"], problem["window_right"]) == (True, 65536, 0)
    assert (problem["head_dim"], problem["head_dim_v"], problem["batch"]) == (128, 64, 2)
    assert document["in_flight"] == 8
    assert document["network"] == {"link": 25e9, "latency_s": 0.002, "task_s": 0.0003}
    assert "8 hosts" in done.err


def test_json_to_a_file(flashbench: CommandLine, rates: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    done = flashbench(*WORDS.split(), "--rates", rates, "--json", str(path))
    assert (done.code, done.out) == (0, "")
    assert json.loads(path.read_text())["hosts"] == 8


def test_memory_that_is_not_enough_is_exit_code_1(flashbench: CommandLine, rates: str) -> None:
    done = flashbench(*WORDS.split(), "--rates", rates, "--memory", "1GiB")
    assert done.code == 1
    assert "fits in 1.00 GiB" in done.out
    assert flashbench(*WORDS.split(), "--rates", rates, "--memory", "1TiB").code == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            "--link 25",
            "--link takes bytes or bits a second, such as 25GB/s, 12.5GiB/s or 100Gb/s, not '25'",
        ),
        ("--hosts 0", "--hosts takes whole numbers from 1 up, such as 64 or 4k (4096), not '0'"),
        ("--hosts 1k", "--hosts takes up to 512 with 1048576 tokens, not 1024"),
        ("--seq-len long", "--seq-len takes whole numbers from 1 up, such as 64 or 4k (4096), not 'long'"),
        ("--dtype float32,float64", "--dtype takes one dtype, not 'float32,float64'"),
        ("--causal both", "--causal takes no or yes, not 'both'"),
        ("--direction fwd+bwd", "--direction takes fwd or bwd, not 'fwd+bwd'"),
        ("--kv-heads 5", "num_heads (32) must be a multiple of num_kv_heads (5)"),
        ("--latency 5", "--latency takes a time with its unit, such as 300us, 0.5ms or 2s, not '5'"),
        ("--memory some", "--memory must be a size such as 16GiB, 512MiB or 4096, not 'some'"),
        (
            "--chunk 1k",
            "--chunk 1024 and --key-chunk 1024 make 1024 x 1024 pairs of 1048576 tokens, and a graph may "
            "have up to 262144",
        ),
        ("--rates /no/such.json", "results file /no/such.json is not found"),
        (
            "--rates x --threads 2",
            "--threads is of a measurement, and --rates measures nothing: give one of them",
        ),
    ],
)
def test_a_wrong_option_is_one_line(
    flashbench: CommandLine, measured: list[Any], words: str, error: str
) -> None:
    done = flashbench(*WORDS.split(), *words.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == f"error: {error}"


def test_with_a_file_of_rates_dask_is_not_needed(rates: str) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['dask', 'distributed'])); "
        "from flashbench.cli.app import main; sys.exit(main())"
    )
    words = [sys.executable, "-c", program, *WORDS.split()]
    done = subprocess.run([*words, "--rates", rates], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: measuring a pair of chunks, which --rates FILE spares, needs the package 'dask', which is "
        "not installed",
        "hint: pip install 'flashbench[cluster]'",
    ]


def test_what_a_plan_needs_is_asked_for(flashbench: CommandLine) -> None:
    done = flashbench("plan", "--hosts", "4")
    assert (done.code, done.out) == (2, "")
    assert "--seq-len" in done.err
