"""`flashbench verify` tells users of a hub's kernel which of their options it ignores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import hf_kernels

from flashbench.engines import get_engine
from flashbench.problem import AttentionProblem
from flashbench.studies.audit import Explanation
from flashbench.studies.audit.script import script_of
from flashbench.studies.cases import Case

pytest.importorskip("torch")
CommandLine = Callable[..., Any]
WORDS = ["verify", "--engine", "hf-kernel", "--dtype", "float32,bfloat16", "--case", "square-17-causal"]
for _name in (
    "softcap-2-one-head-dim",
    "alibi-len70x70",
    "dropout-0.5-one-head-dim",
    "window-3-5-len113x140",
):
    WORDS += ["--case", _name]


def run(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, check=False)


def test_a_right_kernel_has_no_finding(
    flashbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_kernels.choose(hf_kernels.RIGHT, tmp_path / "right", monkeypatch)
    done = flashbench(*WORDS, "--scripts", str(tmp_path / "findings"))
    assert done.code == 0
    assert done.out.splitlines()[-1] == "hf-kernel: 2 unsupported, 8 ok of 10 cases"
    assert "dropout-0.5-one-head-dim-bfloat16 and 1 more: the engine has no dropout" in done.out


def test_options_that_a_kernel_ignores_are_found_and_shown_by_programs(
    flashbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_kernels.choose(hf_kernels.SILENT, tmp_path / "silent", monkeypatch)
    programs = tmp_path / "findings"
    done = flashbench(*WORDS, "--scripts", str(programs), "--json", str(tmp_path / "all.json"))
    assert done.code == 1
    document = json.loads((tmp_path / "all.json").read_text())
    found = {(each["kind"], each["subject"]): each["script"] for each in document["findings"]}
    ignored = {"softcap", "ALiBi's slopes", "dropout"}
    assert found.keys() == {("ignores", subject) for subject in ignored}
    wrong = {each["case"] for each in document["results"] if each["verdict"] != "ok"}
    assert {case.partition("-")[0] for case in wrong} == {"softcap", "alibi", "dropout"}
    scripts = list(programs.iterdir())
    assert len(scripts) == 2  # the program's formula has no dropout
    for script in scripts:
        assert "flashbench" not in script.read_text()
        shown = run(script)
        assert shown.returncode == 1, shown.stderr
        assert shown.stdout.startswith("o: at ")


SMALL = {
    "causal, shared heads": AttentionProblem.of(
        5, seqlen_k=7, batch=2, num_heads=4, num_kv_heads=2, head_dim=8, causal=True, dtype="float32"
    ),
    "window, softcap, ALiBi": AttentionProblem.of(
        9, num_heads=2, head_dim=8, window=(3, 1), softcap=2.0, alibi=True, dtype="float32"
    ),
    "bfloat16": AttentionProblem.of(6, num_heads=2, head_dim=8, softmax_scale=0.7, dtype="bfloat16"),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_program_of_a_right_kernel_shows_nothing_wrong(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_kernels.choose(hf_kernels.RIGHT, tmp_path / "right", monkeypatch)
    assert program(SMALL[name], tmp_path).count("by the formula") == 4


def test_the_program_of_a_kernel_without_gradients_compares_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_kernels.choose(hf_kernels.CHOOSY, tmp_path / "choosy", monkeypatch)
    assert program(SMALL["bfloat16"], tmp_path).count("by the formula") == 1


def test_the_program_of_a_repository_calls_get_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hf_kernels.make(hf_kernels.RIGHT, tmp_path / "right")
    (tmp_path / "kernels.py").write_text(
        "import right\n\n\ndef get_kernel(repo_id, *, revision):\n"
        "    assert (repo_id, revision) == ('me/mine', 'v2')\n    return right\n"
    )
    assert folder.is_dir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(
        sys.modules, "kernels", raising=False
    )  # our folder of tests of kernels, as a namespace
    hf_kernels.name("me/mine@v2", monkeypatch)
    assert program(SMALL["causal, shared heads"], tmp_path).count("by the formula") == 4


def program(problem: AttentionProblem, directory: Path) -> str:
    """What the program of this problem prints, which finds nothing wrong."""
    script = script_of(get_engine("hf-kernel"), Case("small", "small", problem), Explanation("inaccurate"))
    assert script is not None
    path = directory / "shows.py"  # beside a module `kernels`, if there is one
    path.write_text(script)
    done = run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
