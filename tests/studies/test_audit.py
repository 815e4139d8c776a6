"""Findings of `verify`: engines with one error each are told apart, and the case that shows it is small."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import wrong_engines

from flashbench.engines import get_engine, refusal
from flashbench.problem import AttentionProblem
from flashbench.report.findings import finding_lines
from flashbench.studies.audit import Explanation, Finding, audit
from flashbench.studies.audit.explain import explain
from flashbench.studies.audit.script import script_of
from flashbench.studies.cases import Case, choose_cases, narrow_cases
from flashbench.studies.verify import verify


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_engines.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def findings(engine: str, *words: str, dtypes: Sequence[str] = ("float32",)) -> list[Finding]:
    cases = narrow_cases(choose_cases(words), dtypes=list(dtypes))
    return audit(verify([engine], cases), cases)


# An engine, cases that show its error, and what is found.
SEEDED = {
    "WithoutSoftcap": ("softcap-30", "ignores", "softcap"),
    "WithoutAlibi": ("alibi", "ignores", "ALiBi's slopes"),
    "WithoutMask": ("mask-bool-bhqk", "ignores", "the mask"),
    "WithoutSinks": ("sinks-made", "ignores", "the sinks"),
    "WithoutKeyLengths": ("key-lengths-some", "ignores", "the lengths of the keys"),
    "WithoutDropout": ("dropout-0.5", "ignores", "dropout"),
    "TopLeftAlways": ("len203x113-bottom-right", "misreads", "bottom-right alignment as top-left"),
    "ShiftedWindow": ("window-3-5-len113x140", "misreads", "the window's left side as one key more"),
    "OneSlopeForAll": ("alibi", "misreads", "the first head's slope as that of all heads"),
    "OneMaskForAll": ("mask-bool-bhqk", "misreads", "the first head's mask as that of all heads"),
    "OtherDropoutBits": ("dropout-0.5", "misreads", "the seed of dropout as another"),
    "LeakyNan": ("nan-in-v-causal", "spreads NaN", ""),
    "LosesNan": ("nan-in-v-causal", "loses NaN", ""),
    "MeanWhereNothingIsSeen": ("len203x113-bottom-right", "unseeing rows", "o"),
    "ReadsHiddenKeys": ("square-17-causal", "leaks", "hidden keys"),
    "WrongForward": ("square-17", "inaccurate", "o"),
    "WrongLse": ("square-17", "inaccurate", "lse"),
    "WrongDk": ("square-17", "inaccurate", "dk"),
    "Raising": ("square-17", "raises", "RuntimeError"),
    "WrongDtype": ("square-17", "malformed", "o has another type, dtype or shape"),
    "Scribbling": ("square-17", "malformed", "changed its input q"),
}


def test_names_of_seeded_cases_exist() -> None:
    for word, _, _ in SEEDED.values():
        assert choose_cases([word])


@pytest.mark.parametrize("engine", SEEDED)
def test_the_kind_of_error_is_found(engine: str) -> None:
    words, kind, subject = SEEDED[engine]
    found = findings(engine, words)
    assert (kind, subject) in [(each.kind, each.subject) for each in found]
    assert {each.kind for each in found} <= {kind, "misreads"}  # of a window, both sides may explain it


@pytest.mark.parametrize("word", ["dropout-0.5", "square-17-causal", "logits-x30"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_engine_that_is_merely_inaccurate_is_called_no_worse(word: str, dtype: str) -> None:
    found = findings("Inaccurate", word, dtypes=[dtype])
    assert {each.kind for each in found} <= {"inaccurate", "narrow arithmetic"}


def test_an_engine_that_raises_at_times_does_not_end_the_audit() -> None:
    found = findings("RaisingAtTimes", "square-17", "softcap-30")
    assert found
    assert {each.kind for each in found} <= {"unsteady", "raises", "inaccurate"}


def test_sums_that_saturate_are_told_from_rounding() -> None:
    (found,) = findings("Saturating", "len64x1024", dtypes=["bfloat16"])
    assert (found.kind, found.subject) == ("saturates", "sums over keys")


def test_a_narrower_dtype_inside_is_named() -> None:
    (found,) = findings("SinglePrecision", "square-17", dtypes=["float64"])
    assert (found.kind, found.subject) == ("narrow arithmetic", "float32")


@pytest.mark.parametrize("engine", ["flash", "standard"])
def test_a_right_engine_has_no_findings(engine: str) -> None:
    assert findings(engine, "square-17", "softcap-30") == []
    (case,) = narrow_cases(choose_cases(["square-17-causal"]), dtypes=["float32"])
    assert explain(get_engine(engine), case) is None


def test_the_case_is_made_as_small_as_it_fails() -> None:
    (found,) = findings("WithoutSoftcap", "softcap")
    problem = found.problem
    assert (problem.batch, problem.num_heads, problem.seqlen_q) == (1, 1, 1)
    assert problem.features == {"softcap"}
    assert problem.seqlen_k * problem.head_dim * problem.head_dim_v <= 16
    assert found.cases > 1


def test_two_errors_are_two_findings() -> None:
    found = findings("WithoutSoftcap", "pair-bool-softcap", "softcap-30")
    assert {(each.kind, each.subject) for each in found} == {("ignores", "softcap")}
    several = findings("WithoutMask", "mask-bool-bhqk", "pair-bool-softcap")
    assert Explanation("ignores", "the mask") in [Explanation(x.kind, x.subject) for x in several]


def test_a_paragraph() -> None:
    (found,) = findings("WithoutSoftcap", "softcap-30")
    lines = finding_lines([found], ["somewhere.py"])
    text = " ".join(lines[0].split())
    assert text.startswith(
        "WithoutSoftcap ignores softcap. Its results are those of the same attention without"
    )
    assert "made smaller: 1 x 1, 1 sequence, heads 1, head_dim" in text
    assert max(map(len, lines[0].splitlines())) <= 100
    assert lines[1:] == ["  python somewhere.py", ""]


def test_cases_that_time_did_not_allow_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashbench.studies.audit.explain._MOST_SECONDS", 0.0)
    assert findings("WithoutSoftcap", "softcap-30") == []
    assert finding_lines([], [], {"WithoutSoftcap": 1}) == [
        "WithoutSoftcap: 1 failed case not explained, for want of time"
    ]


PEERS = {
    "torch-math": ("nan-in-v-causal", "float32", "torch"),
    "torch-flash": ("nan-in-v-causal", "float32", "torch"),
    "jax": ("nan-in-v-causal", "float32", "jax"),
    "flex": ("nan-in-v-mask-float", "bfloat16", "torch"),
}


@pytest.mark.parametrize("engine", PEERS)
def test_a_program_shows_it_without_flashbench(engine: str, tmp_path: Path) -> None:
    word, dtype, package = PEERS[engine]
    pytest.importorskip(package)
    (found,) = findings(engine, word, dtypes=[dtype])
    assert found.kind == "spreads NaN"
    assert found.script is not None
    assert "flashbench" not in found.script
    done = _run(found.script, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "nan, by the formula" in done.stdout


SMALL = {
    "one causal query": AttentionProblem.of(
        1, seqlen_k=6, num_heads=2, head_dim=8, causal=True, dtype="float32"
    ),
    "causal": AttentionProblem.of(9, num_heads=2, head_dim=8, causal=True, dtype="float32"),
    "shared heads": AttentionProblem.of(
        5, seqlen_k=7, batch=2, num_heads=4, num_kv_heads=2, head_dim=8, dtype="float32"
    ),
    "bfloat16": AttentionProblem.of(6, num_heads=2, head_dim=8, dtype="bfloat16"),
    "window": AttentionProblem.of(9, head_dim=8, window=(3, 1), dtype="float32"),
    "masked": AttentionProblem.of(
        6, batch=2, num_heads=2, head_dim=8, mask="bool", mask_axes="bhqk", dtype="float32"
    ),
    "biased": AttentionProblem.of(6, num_heads=2, head_dim=8, mask="float", mask_axes="hqk", dtype="float32"),
    "lengths": AttentionProblem.of(5, batch=2, head_dim=8, key_lengths=(3, 5), dtype="float32"),
    "softcap and ALiBi": AttentionProblem.of(
        6, num_heads=2, head_dim=8, softcap=2.0, alibi=True, dtype="float32"
    ),
}  # fmt: skip


_OF_TORCH = ("causal", "one causal query", "shared heads", "bfloat16")
RUNS = {  # what each library has
    "torch-math": _OF_TORCH,
    "torch-flash": _OF_TORCH,
    "zentorch": _OF_TORCH,
    "jax": [name for name in SMALL if name != "softcap and ALiBi"],
    "onnxruntime": ["causal", "one causal query"],
    "flex": list(SMALL),
}


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine in RUNS for name in RUNS[engine]])
def test_programs_agree_with_the_formula_where_a_library_is_right(
    engine: str, name: str, tmp_path: Path
) -> None:
    """Else a program would show an error of its own."""
    pytest.importorskip(engine if engine in ("jax", "onnxruntime", "zentorch") else "torch")
    made, problem = get_engine(engine), SMALL[name]
    assert refusal(made, problem, "fwd") is None
    script = script_of(made, Case("small", "small", problem), Explanation("inaccurate", "o"))
    assert script is not None
    done = _run(script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("o: at ")


def _run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    path = directory / "shows.py"
    path.write_text(script)
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=240, check=False, cwd=directory
    )
