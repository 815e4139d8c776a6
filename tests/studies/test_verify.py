"""verify passes the engines that are right, and catches each that is wrong in one thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import wrong_engines

from flashbench.errors import EngineError
from flashbench.studies.cases import choose_cases
from flashbench.studies.verify import CaseResult, Deviation, Verification, verify


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_engines.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def check(engine: str, *cases: str) -> CaseResult:
    """The result of an engine on the only case so named."""
    (result,) = verify([engine], choose_cases(cases)).results
    return result


def test_flash_and_standard_pass_every_case() -> None:
    verification = verify(["flash", "standard"], choose_cases([]))
    assert [result.reproduce for result in verification.results if result.verdict != "ok"] == []
    assert verification.exit_code == 0


def test_a_result_holds_every_output_beside_its_tolerance() -> None:
    result = check("Right", "square-17-causal-float64")
    assert (result.verdict, result.reason, result.engine) == ("ok", None, "Right")
    assert set(result.outputs) == {"o", "lse", "dq", "dk", "dv"}
    for deviation in result.outputs.values():
        assert deviation.error is not None
        assert 0 <= deviation.error <= deviation.tolerance == 1e-12


def test_a_forward_off_by_a_thirtieth_of_a_billionth_is_caught() -> None:
    result = check("WrongForward", "square-17-causal-float64")
    assert result.verdict == "wrong"
    assert result.reason is not None
    assert result.reason.startswith("o[0, 0, 16, 63] is off by 3e-11 from the oracle's ")
    assert result.reason.endswith(": more than 1e-12")
    assert set(result.outputs) == {"o"}  # what comes after the failure was not computed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_engine_wrong_in_forward_only_is_caught(dtype: str) -> None:
    assert check("WrongForward", f"gqa-8-2-len113x203-{dtype}").verdict == "wrong"
    assert (check("WrongLse", f"square-17-{dtype}").reason or "").startswith("lse[")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_engine_wrong_in_dk_only_is_caught(dtype: str) -> None:
    result = check("WrongDk", f"square-17-causal-{dtype}")
    assert result.verdict == "wrong"
    assert (result.reason or "").startswith("dk[0, 0, 16, ")
    assert result.outputs["dq"].share < 1 < result.outputs["dk"].share


def test_an_engine_that_leaks_nan_is_caught_by_where_it_is() -> None:
    assert check("LeakyNan", "square-17-causal-float64").verdict == "ok"
    result = check("LeakyNan", "nan-in-v-causal-float64")
    assert result.verdict == "wrong"
    assert (result.reason or "").startswith("o[0, 2, 0, 7] is nan, and the oracle's is ")
    assert result.outputs["o"].error is None
    assert check("LeakyNan", "inf-in-keys-that-none-sees-float64").verdict == "wrong"


def test_a_backward_without_what_its_forward_kept_is_tried_too() -> None:
    result = check("WrongOnlyWhenRecomputing", "square-17-float64")
    assert (result.reason or "").startswith("dq[")


def test_an_engine_that_raises_fails_that_case_and_says_so() -> None:
    result = check("Raising", "square-2-float64")
    assert (result.verdict, result.reason) == ("raised", "raised RuntimeError: the first line")
    assert result.failed


def test_an_engine_that_changes_an_input_is_caught() -> None:
    assert check("Untidy", "square-2-float64").reason == "changed its input do"


def test_results_of_the_wrong_kind_are_caught() -> None:
    assert check("WrongDtype", "square-2-float64").verdict == "ok"
    assert (
        check("WrongDtype", "square-2-float32").reason
        == "o is float64 (1, 1, 2, 64), not float32 (1, 1, 2, 64)"
    )
    assert check("WrongType", "square-2-float64").reason == "lse is of type list, not an array"


def test_what_an_engine_does_not_support_is_no_failure() -> None:
    result = check("Choosy", "square-2-float64")
    assert (result.verdict, result.reason) == ("forward ok", "no backward of 2")
    assert set(result.outputs) == {"o", "lse"}  # its forward was checked
    assert not result.failed


def test_one_failure_among_many_decides_the_exit_code() -> None:
    cases = choose_cases(["square-2"])
    assert verify(["Right", "Choosy"], cases).exit_code == 0
    assert verify(["Right", "WrongDk"], cases).exit_code == 1
    assert Verification(flashbench_version="1", results=[]).exit_code == 0


def test_the_command_that_reproduces_is_fit_for_a_shell() -> None:
    result = check("Right", "blocks-17x5-float32")
    assert result.reproduce == "flashbench verify --engine Right --case blocks-17x5-float32"
    assert (result.block_q, result.block_k, result.threads) == (17, 5, None)


def test_progress_is_told_before_each_case() -> None:
    seen: list[tuple[int, int, str]] = []
    verify(["Right"], choose_cases(["square-2"]), lambda *step: seen.append(step))
    assert seen == [(0, 2, "square-2-float32"), (1, 2, "square-2-float64")]


def test_an_unknown_engine_is_refused_before_anything_runs() -> None:
    with pytest.raises(EngineError, match="unknown engine 'Lost'"):
        verify(["Right", "Lost"], choose_cases(["square-2"]), lambda *_: pytest.fail("ran"))


@pytest.mark.parametrize(
    ("error", "tolerance", "share"),
    [(1.0, 2.0, 0.5), (None, 2.0, float("inf")), (0.0, 0.0, 0.0), (1.0, 0.0, float("inf"))],
)
def test_the_share_of_a_tolerance(error: float | None, tolerance: float, share: float) -> None:
    assert Deviation(error=error, tolerance=tolerance).share == share
