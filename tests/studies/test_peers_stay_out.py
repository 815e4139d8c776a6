"""The command's own process knows what peer engines can do, and loads none of their libraries."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import hf_kernels

from flashbench.engines import ENGINES, Outline, get_engine, get_outline, refusal
from flashbench.engines.peers import PEERS
from flashbench.errors import EngineError
from flashbench.problem import AttentionProblem

CODE = """
import sys
from flashbench.studies.rows import rows_of
from flashbench.studies.study import Study
from flashbench.studies.memory_fit.training import training_rows
study = Study(seq_lens=[16], engines=[{names}])
rows = rows_of(study)
assert {{row.point.engine for row in rows}} == {{{names}}}
training_rows(study, 2**30)
print(*[(row.engine.name, *row.modules) for row in rows], sep="\\n")
print({{"torch", "onnx", "onnxruntime", "zentorch"}} & set(sys.modules) or "none is loaded")
"""


@pytest.fixture(autouse=True)
def _kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf_kernels.choose(hf_kernels.RIGHT, tmp_path / "right", monkeypatch)


def installed(name: str) -> bool:
    return all(find_spec(package) for package in PEERS[name].packages)


def test_a_run_is_prepared_without_loading_a_peer() -> None:
    names = [name for name in PEERS if installed(name)]
    if not names:
        pytest.skip("no peer is installed")
    code = CODE.format(names=", ".join(map(repr, [*names, "flash"])))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "none is loaded"
    for name in names:  # the peer's worker loads it before its turn
        assert f"'{name}', '{ENGINES[name].module}'" in done.stdout


PROBLEMS = [
    AttentionProblem.of(16, seqlen_k=24, causal=True),
    AttentionProblem.of(16, num_heads=4, num_kv_heads=2),
    AttentionProblem.of(16, num_heads=4, num_kv_heads=2, head_dim=20, dtype="float32"),
    AttentionProblem.of(16, head_dim_v=32, dtype="float32"),
    AttentionProblem.of(16, causal=True, softmax_scale=0.0),
    AttentionProblem.of(16, window=(4, 0)),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from the peers, while they are loaded
@pytest.mark.parametrize("name", PEERS)
def test_an_outline_says_what_the_engine_says(name: str) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    outline, engine = get_outline(name), get_engine(name)
    assert isinstance(outline, type(PEERS[name]))
    for attribute in Outline.__annotations__:
        assert getattr(outline, attribute) == getattr(engine, attribute)
    for problem in PROBLEMS:
        for direction in ("fwd", "bwd", "fwd_bwd"):
            assert refusal(outline, problem, direction) == refusal(engine, problem, direction)


def test_a_missing_library_is_told_without_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        EngineError, match="'torch-flash' needs the package 'torch', which is not installed"
    ) as e:
        get_outline("torch-flash")
    assert e.value.hint == "pip install 'flashbench[torch]'"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(EngineError, match="unknown engine 'nope'; known: flash, "):
        get_outline("nope")
