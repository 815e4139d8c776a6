"""The output of `verify` for made-up results."""

from __future__ import annotations

import json

import pytest
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.dtypes import ACCUMULATORS, Dtype
from flashbench.problem import AttentionProblem, Feature
from flashbench.report.verify import FAILURES_SHOWN, verify_json, verify_lines, verify_report
from flashbench.studies.verify import CaseResult, Deviation, Verdict, Verification


def make_result(
    engine: str,
    case: str,
    verdict: Verdict = "ok",
    *,
    group: str = "square",
    error: float | None = 1.8e-15,
    reason: str | None = None,
    lacks: tuple[Feature, ...] = (),
    dtype: Dtype = "float64",
    naive_error: float | None = None,
) -> CaseResult:
    outputs = (
        {}
        if verdict in ("raised", "unsupported")
        else {
            "o": Deviation(error=error, tolerance=1e-12, naive_error=naive_error),
            "lse": Deviation(error=4.4e-16, tolerance=1e-12),
            "dk": Deviation(error=6e-15, tolerance=2e-12),
        }
    )
    return CaseResult(
        case=case,
        group=group,
        problem=AttentionProblem.of(4, dtype=dtype),
        block_q=None,
        block_k=None,
        threads=None,
        engine=engine,
        verdict=verdict,
        reason=reason,
        lacks=list(lacks),
        outputs=outputs,
    )


def made(results: list[CaseResult], *, suite: str = "default", seconds: float = 1.6) -> Verification:
    return Verification(flashbench_version="0.1.0", suite=suite, seconds=seconds, results=results)


@pytest.fixture
def verification() -> Verification:
    return made(
        [
            make_result("flash", "square-1-float32", dtype="float32", error=3.2e-7),
            make_result("flash", "square-1-float64"),
            make_result("flash", "square-2-float64", error=3.1e-15),
            make_result("flash", "blocks-1x1-float64", group="blocks", error=0.0),
            make_result("mine", "square-1-float64"),
            make_result("mine", "square-2-float64", "wrong", error=2e-9, reason="o[0] is off by 2e-09"),
            make_result("mine", "square-5-float64", "wrong", error=None, reason="o[0] is nan"),
            make_result("mine", "blocks-1x1-float64", "raised", group="blocks", reason="raised OSError: no"),
            make_result("mine", "len2x3-float64", "unsupported", group="len", reason="needs 3, not 2"),
            make_result("mine", "len2x9-float64", "unsupported", group="len", reason="needs 9, not 2"),
            make_result("mine", "len2x9-v-float64", "unsupported", group="len", reason="has no v"),
        ],
    )


def test_table_of_groups(verification: Verification, snapshot: SnapshotAssertion) -> None:
    assert rendered(verify_report(verification)) == snapshot


def test_table_of_cases(verification: Verification, snapshot: SnapshotAssertion) -> None:
    assert rendered(verify_report(verification, verbose=True)) == snapshot


def test_lines_tell_failures_with_their_commands_then_what_is_unsupported(verification: Verification) -> None:
    assert verify_lines(verification) == [
        "flash: 4 ok of 4 cases",
        "FAILED mine square-2-float64: o[0] is off by 2e-09",
        "  flashbench verify --engine mine --case square-2-float64",
        "FAILED mine square-5-float64: o[0] is nan",
        "  flashbench verify --engine mine --case square-5-float64",
        "FAILED mine blocks-1x1-float64: raised OSError: no",
        "  flashbench verify --engine mine --case blocks-1x1-float64",
        "unsupported by mine: len2x3-float64 and 1 more: needs 3, not 2",
        "unsupported by mine: len2x9-v-float64: has no v",
        "mine: 2 wrong, 1 raised, 3 unsupported, 1 ok of 7 cases",
    ]


def test_errors_of_16_bit_dtypes_stand_beside_those_of_a_naive_computation() -> None:
    results = [
        make_result("mine", "square-1-bfloat16", dtype="bfloat16", error=0.01, naive_error=0.02),
        make_result("mine", "square-2-bfloat16", dtype="bfloat16", error=0.03001, naive_error=0.02),
        make_result("mine", "square-1-float64"),
    ]
    lines = rendered(verify_report(made(results))).splitlines()
    (bfloat16,) = (line.split() for line in lines if "bfloat16" in line)
    (float64,) = (line.split() for line in lines if "float64" in line)
    # Group, dtype, count, then error, tolerance and ratio of forward and of gradients.
    assert bfloat16[5] == "1.50"  # without the 1e-5 that is allowed in any case
    assert (float64[4], float64[7]) == ("-", "-")
    rows = rendered(verify_report(made(results), verbose=True)).splitlines()
    assert [row.split()[3] for row in rows if "bfloat16" in row] == ["0.50", "1.50"]
    only_wide = [result for result in results if result.problem.dtype == "float64"]
    assert "ratio" not in rendered(verify_report(made(only_wide)))


def test_an_exact_forward_without_a_backward_is_told_apart() -> None:
    alone = [make_result("mine", f"square-{n}-float64", "forward ok", reason="has no dq") for n in (1, 2)]
    verification = made(alone, seconds=61.6)
    assert rendered(verify_report(verification)).startswith("2 cases of suite default, 1 min 2 s\n")
    assert verify_lines(verification) == [
        "unsupported by mine: square-1-float64 and 1 more: has no dq",
        "mine: 2 forward ok of 2 cases",
    ]
    (row,) = [line for line in rendered(verify_report(verification)).splitlines() if "square" in line]
    assert row.split()[-2:] == ["forward", "ok"]
    assert verification.exit_code == 0


def test_many_failures_are_told_by_the_first_few() -> None:
    count = FAILURES_SHOWN + 7
    many = [make_result("mine", f"square-{n}-float64", "wrong", reason="off") for n in range(count)]
    verification = made(many)
    lines = verify_lines(verification)
    assert lines[-2:] == [
        "FAILED mine: and 7 more; --verbose tells them all",
        f"mine: {count} wrong of {count} cases",
    ]
    assert len(lines) == 2 * FAILURES_SHOWN + 2
    assert len(verify_lines(verification, verbose=True)) == 2 * count + 1


def test_features_that_an_engine_lacks_are_told_once() -> None:
    lacking: list[tuple[Feature, ...]] = [("window",), ("alibi", "window"), ("sinks",)]
    verification = made(
        [
            make_result(
                "mine",
                f"case-{n}-float64",
                "unsupported",
                reason=f"the engine has no {', '.join(lacks)}",
                lacks=lacks,
            )
            for n, lacks in enumerate(lacking)
        ]
    )
    assert verify_lines(verification)[0] == (
        "unsupported by mine: case-0-float64 and 2 more: the engine has no alibi, sinks, window"
    )


def test_a_wide_table_breaks_words_and_no_numbers(snapshot: SnapshotAssertion) -> None:
    group = "causal, local, alibi, softcap, dropout"
    results = [
        make_result("mine", f"a-{dtype}", verdict, group=group, error=error, dtype=dtype, reason="some")
        for dtype in ACCUMULATORS[::-1]
        for verdict, error in (("wrong", None), ("unsupported", None), ("ok", 1e-9))
    ]
    table = rendered(verify_report(made(results)))
    assert table == snapshot
    assert max(map(len, table.splitlines())) <= 80


def test_naive_errors_leave_room_for_every_word() -> None:
    """At 80 columns nothing is cut."""
    results = [
        make_result("mine", f"{group}-{verdict}", verdict, group=group, dtype="bfloat16", naive_error=0.01)
        for group, verdict in (("extremes", "unsupported"), ("square", "ok"), ("mixed", "ok"))
    ]
    results.append(make_result("mine", "b", "unsupported", group="mixed", dtype="bfloat16"))
    table = rendered(verify_report(made(results)))
    assert max(map(len, table.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in table
    assert " n/a" in table
    assert "1 n/a,\n" in "\n".join(line.rstrip() for line in table.splitlines())


def test_an_engine_name_is_quoted_for_the_shell() -> None:
    verification = made([make_result("my engine; rm", "square-1-float64", "raised")])
    assert verify_lines(verification)[1] == (
        "  flashbench verify --engine 'my engine; rm' --case square-1-float64"
    )


def test_a_command_names_a_suite_other_than_the_default() -> None:
    verification = made([make_result("mine", "b2-len267-float64", "raised")], suite="torch")
    assert verify_lines(verification)[1:] == [
        "  flashbench verify --suite torch --engine mine --case b2-len267-float64",
        "mine: 1 raised of 1 case",
    ]


def test_json_holds_every_error_and_the_exit_code(verification: Verification) -> None:
    document = json.loads(verify_json(verification))
    assert document["exit_code"] == 1
    assert document["flashbench_version"] == "0.1.0"
    assert (document["suite"], document["seconds"]) == ("default", 1.6)
    assert len(document["results"]) == 11
    assert document["results"][5]["outputs"]["o"] == {"error": 2e-9, "tolerance": 1e-12, "naive_error": None}
    assert document["results"][6]["outputs"]["o"]["error"] is None
    assert document["results"][0]["problem"]["seqlen_q"] == 4


def test_colors_do_not_change_the_words(verification: Verification) -> None:
    assert "\x1b[1;31m" in rendered(verify_report(verification), color=True)
    assert "\x1b" not in rendered(verify_report(verification))
