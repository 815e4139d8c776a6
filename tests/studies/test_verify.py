"""verify passes correct engines, and catches every engine with a single error."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import wrong_engines

from flashbench.dtypes import NARROWEST_FIRST
from flashbench.errors import EngineError
from flashbench.studies.cases import choose_cases, narrow_cases
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.progress import Progress
from flashbench.studies.verify import CaseResult, Deviation, Verification, verify


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_engines.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def check(engine: str, *cases: str) -> CaseResult:
    """The result of an engine on the only case with that name."""
    (result,) = verify([engine], choose_cases(cases)).results
    return result


@pytest.mark.grid
def test_flash_and_standard_pass_every_case() -> None:
    verification = verify(["flash", "standard"], choose_cases([]))
    not_ok = [result for result in verification.results if result.verdict != "ok"]
    # Except a feature that they do not have at all.
    assert [verification.reproduce(result) for result in not_ok if not result.lacks] == []
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
    assert set(result.outputs) == {"o"}  # nothing was computed after the failure


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_engine_wrong_in_forward_only_is_caught(dtype: str) -> None:
    assert check("WrongForward", f"gqa-8-2-len113x203-{dtype}").verdict == "wrong"
    assert (check("WrongLse", f"square-17-{dtype}").reason or "").startswith("lse[")


@pytest.mark.parametrize("dtype", NARROWEST_FIRST)
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


def test_an_engine_that_changes_an_input_first_and_is_right_about_that_is_caught() -> None:
    assert check("Scribbling", "square-2-float64").reason == "changed its input q"


def test_an_engine_that_writes_to_what_its_next_backward_needs_is_caught() -> None:
    assert check("OverwritingO", "square-2-float64").reason == "changed its input o"


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


@pytest.mark.parametrize(
    ("engine", "case", "reason"),
    [
        ("ShiftedWindow", "window-3-5-len113x140", "o["),
        ("ShiftedWindow", "pair-window-packed", "o["),
        ("WithoutMask", "mask-bool-k", "o["),
        ("WithoutMask", "mask-float-hides-some-rows-blocks-16x16", "o["),
        ("WithoutMask", "mask-block-qk", "o["),
        ("OneMaskForAll", "mask-bool-hqk", "o["),
        ("OneMaskForAll", "mask-float-bk", "o["),
        ("OneMaskForAll", "mask-block-bhqk", "o["),
        ("WithoutAlibi", "alibi-len67x101", "o["),
        ("OneSlopeForAll", "alibi-len67x101", "o["),
        ("WithoutSoftcap", "softcap-2", "o["),
        ("WithoutSoftcap", "softcap-30", "o["),
        ("WithoutSinks", "sinks-made-len67x101", "o["),
        ("WithoutSinks", "sinks-made-len101x67-bottom-right", "o["),
        ("WithoutKeyLengths", "key-lengths-some", "o["),
        ("TopLeftAlways", "key-lengths-some-bottom-right", "o["),
        ("TopLeftAlways", "packed-five-bottom-right", "o["),
        ("WithoutDropout", "dropout-0.1", "o["),
        ("OtherDropoutBits", "dropout-0.1", "o["),
        ("PagesInOrder", "decode-1-paged-16", "o["),
        ("WrongDsinks", "sinks-made-len67x101", "dsinks["),
        ("WithoutDmask", "mask-float-qk", "dmask is of type NoneType, not an array"),
        ("DmaskOfOneSequence", "mask-float-qk", "dmask["),
        ("LeaksWhatIsHidden", "nan-in-padding", "o["),
        ("LeaksWhatIsHidden", "nan-in-hidden-keys-mask-bool", "o["),
        ("LeaksWhatIsHidden", "inf-in-hidden-keys-mask-float", "o["),
        ("LeaksWhatIsHidden", "nan-in-hidden-keys-mask-block", "o["),
        ("LeaksWhatIsHidden", "nan-in-hidden-keys-window", "o["),
        ("LeaksWhatIsHidden", "nan-in-page-tails", "o["),
        ("UntidyWithMasks", "mask-block-qk", "changed its input mask"),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_engine_wrong_about_a_feature_that_it_claims_is_caught(
    engine: str, case: str, reason: str, dtype: str
) -> None:
    assert check("Featured", f"{case}-{dtype}").verdict == "ok"
    result = check(engine, f"{case}-{dtype}")
    assert result.verdict == "wrong"
    assert (result.reason or "").startswith(reason)


def test_what_is_asked_of_gradients_is_what_the_problem_has() -> None:
    assert list(check("Featured", "pair-float-sinks-float64").outputs) == [
        *("o", "lse"),
        *("dq", "dk", "dv", "dsinks", "dmask"),
    ]
    assert "dmask" not in check("Featured", "mask-bool-qk-float64").outputs
    assert list(check("Featured", "decode-1-paged-16-float64").outputs) == ["o", "lse"]


def test_features_that_an_engine_lacks_are_unsupported_and_named() -> None:
    verification = verify(["numpy", "Featured"], choose_cases(["pair-window-alibi-float64"]))
    result = verification.results[0]
    assert verification.exit_code == 0  # another engine was verified
    assert (result.verdict, result.lacks) == ("unsupported", ["alibi", "window"])
    assert result.reason == "the engine has no alibi, window"


def test_one_failure_among_many_decides_the_exit_code() -> None:
    cases = choose_cases(["square-2"])
    assert verify(["Right", "Choosy"], cases).exit_code == 0
    assert verify(["Right", "WrongDk"], cases).exit_code == 1
    assert Verification(flashbench_version="1", suite="default", seconds=0.0, results=[]).exit_code == 1


def test_cases_that_no_engine_supports_are_refused_before_any_runs() -> None:
    with pytest.raises(NothingToMeasureError, match="nothing can be verified: numpy: the engine has no "):
        verify(["numpy"], choose_cases(["pair-window-alibi-float64"]))


def test_gradients_alone_of_an_engine_that_has_none_are_nothing_that_can_be_verified() -> None:
    cases = narrow_cases(choose_cases(["square-2"]), directions=["bwd"])
    with pytest.raises(NothingToMeasureError, match="nothing can be verified: Choosy: no backward of 2"):
        verify(["Choosy"], cases)
    verification = verify(["Choosy", "Right"], cases)
    assert [result.verdict for result in verification.results] == ["unsupported", "ok"] * 4
    assert verification.exit_code == 0  # of another engine they were verified


def test_gradients_alone_that_are_refused_only_when_they_are_computed_are_not_verified() -> None:
    cases = choose_cases(["square-2-float64"])
    assert verify(["RefusingLate"], cases).results[0].verdict == "forward ok"
    verification = verify(["RefusingLate"], narrow_cases(cases, directions=["bwd"]))
    (result,) = verification.results
    assert (result.verdict, result.reason) == ("unsupported", "no backward after all")
    assert verification.exit_code == 1


def test_the_command_that_reproduces_is_fit_for_a_shell() -> None:
    verification = verify(["Right"], choose_cases(["blocks-17x5-float32"]))
    (result,) = verification.results
    assert verification.reproduce(result) == "flashbench verify --engine Right --case blocks-17x5-float32"
    assert (result.block_q, result.block_k, result.threads) == (17, 5, None)


def test_a_command_names_its_suite_unless_it_is_the_default() -> None:
    name = "len113x203-d32-gqa-causal-local-float64"
    verification = verify(["Featured"], choose_cases([name], "flash-attention"), suite="flash-attention")
    (result,) = verification.results
    assert result.verdict == "ok"
    assert verification.reproduce(result) == (
        f"flashbench verify --suite flash-attention --engine Featured --case {name}"
    )


def test_flash_and_standard_pass_a_case_of_each_kind_of_the_grids() -> None:
    for suite, names in {
        "flash-attention": [
            "len113x203-d59-mqa-causal-alibi-float32",
            "len108x256-d40-gqa-local-float64",
            "len113x211-d64-gqa-causal-softcap-dropout-float16",
            "len128x217-d111-mha-causal-local-alibi-bfloat16",
            "len2048-x100-sinks-causal-bfloat16",
        ],
        "torch": ["b2-len267-h3-d8-causal-train", "b2-len267-h1-d16-full-inference"],
    }.items():
        results = verify(["flash", "standard"], choose_cases(names, suite), suite=suite).results
        assert {result.verdict for result in results if not result.lacks} == {"ok"}


def test_progress_is_told_before_each_case_with_the_time_that_the_pairs_left_will_take() -> None:
    seen: list[Progress] = []
    verify(["Right"], choose_cases(["square-2"]), seen.append)
    assert [step[:3] for step in seen] == [
        (i, 4, f"square-2-{dtype}") for i, dtype in enumerate(NARROWEST_FIRST)
    ]
    assert seen[0].left_s is None
    assert (seen[1].left_s or 0) > 0


def test_an_unknown_engine_is_refused_before_anything_runs() -> None:
    with pytest.raises(EngineError, match="unknown engine 'Lost'"):
        verify(["Right", "Lost"], choose_cases(["square-2"]), lambda _: pytest.fail("ran"))


@pytest.mark.parametrize(
    ("error", "tolerance", "share"),
    [(1.0, 2.0, 0.5), (None, 2.0, float("inf")), (0.0, 0.0, 0.0), (1.0, 0.0, float("inf"))],
)
def test_the_share_of_a_tolerance(error: float | None, tolerance: float, share: float) -> None:
    assert Deviation(error=error, tolerance=tolerance).share == share
