"""Tables of windows, decoding steps and other optional features, from made-up results."""

from __future__ import annotations

import msgspec
import pytest
from helpers.fake_exports import make_duel
from helpers.fake_results import make_measurement, make_results
from helpers.feature_rows import (
    decode_results,
    decode_rows,
    every_feature,
    failing_window_rows,
    length_rows,
    window_rows,
)
from helpers.rendering import rendered
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from flashbench.analysis.compare import compare
from flashbench.analysis.group_words import problem_line
from flashbench.analysis.groups import problem_key
from flashbench.problem import AttentionProblem
from flashbench.report.compare import compare_report
from flashbench.report.duel import duel_markdown, duel_report
from flashbench.report.markdown import results_markdown
from flashbench.report.memory import memory_report
from flashbench.report.plain import plain_report
from flashbench.report.profile import profile_report
from flashbench.report.sweep import sweep_report
from flashbench.report.units import format_count

RESULTS = {
    "window beside full": make_results(window_rows("flash")),
    "window alone": make_results(window_rows("flash", window_only=True)),
    "windows of two engines": make_results(window_rows("flash", "torch-flash")),
    "window alone of two engines": make_results(window_rows("flash", "torch-flash", window_only=True)),
    "windows that failed": make_results(failing_window_rows()),
    "decode": decode_results(decode_rows("flash", "torch-flash")),
    "decode of one engine": decode_results(decode_rows("flash", batch=8)),
    "decode from caches": decode_results(decode_rows("flash", slower=0.5)),
    "decode four queries over a window": decode_results(
        sorted(
            [
                row
                for window in ((None, None), (256, 0))
                for row in decode_rows("flash", queries=4, causal=True, window=window, page_size=16)
            ],
            key=lambda row: row.problem.seqlen_k,
        )
    ),
    "decode, nothing known of the bandwidth": make_results(
        [
            msgspec.structs.replace(row, rates=msgspec.structs.replace(row.rates, percent_of_bandwidth=None))
            for row in decode_rows("flash")
        ]
    ),
    "key lengths": make_results(length_rows()),
    "packed": make_results(length_rows(packed=True)),
    "every feature": make_results(every_feature()),
    "decode beside prefill": make_results(
        [make_measurement("flash", 1024, dtype="float32"), *decode_rows("flash")]
    ),
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", RESULTS)
def test_tables(name: str, width: int, snapshot: SnapshotAssertion) -> None:
    text = rendered(profile_report(RESULTS[name]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text == snapshot


def test_markdown_has_the_same_tables(snapshot: SnapshotAssertion) -> None:
    names = ("window beside full", "decode", "key lengths")
    assert "\n".join(results_markdown(RESULTS[name]) for name in names) == snapshot


def test_a_window_s_work_is_told_beside_the_full_one_s() -> None:
    text = rendered(profile_report(RESULTS["window beside full"]), 120)
    pairs = [row.problem.visible_pairs for row in RESULTS["window beside full"].measurements]
    assert pairs[1::2] == [257 * seqlen - 256 * 257 // 2 for seqlen in (4096, 16384, 131072)]
    for count in pairs:
        assert f" {format_count(count)} " in text
    assert "0.0039x" in text  # 33.7M of 8590M pairs


def test_time_is_over_the_full_one_of_the_same_engine() -> None:
    rows = window_rows("flash", "torch-flash")
    table = rendered(profile_report(make_results(rows)), 120).splitlines()
    lines = [line for line in table if " torch-flash " in line]
    assert [line.split("x ")[0].split()[-1] for line in lines] == [
        "1.00",
        "0.12",
        "1.00",
        "0.031",
        "1.00",
        "0.0039",
    ]


def test_a_mask_that_rates_know_nothing_of_is_told() -> None:
    line = "rates count the pairs that a mask array hides too"
    masked = [make_measurement(engine, 512, mask="block") for engine in ("standard", "flash")]
    assert line in rendered(profile_report(make_results(masked)))
    assert line not in rendered(profile_report(make_results()))


def test_a_duel_names_the_features_and_the_keys_of_a_step() -> None:
    duel = make_duel()
    rows = window_rows("flash")[1:2] * 2 + decode_rows("flash")[:1] * 2
    text = rendered(duel_report(msgspec.structs.replace(duel, measurements=rows)), 200)
    assert "forward, causal, window 256, softcap 50, float32, head_dim 64, 8 heads, batch 1" in text
    assert "decode 1 query, float32, head_dim 128, 32 heads over 8, batch 1" in text
    assert "1 x 2048" in text
    words = duel_markdown(msgspec.structs.replace(duel, measurements=rows))
    assert "causal, window 256, softcap 50" in words


def test_a_comparison_names_the_features_too() -> None:
    results = make_results([*window_rows("flash")[:2], *length_rows(packed=True)])
    text = rendered(compare_report(compare(results, results)), 200)
    assert "flash, forward, causal, window 256, softcap 50, float32" in text
    assert "standard, forward, full, varlen 25/50/75/100 %" in text


@pytest.mark.parametrize("name", RESULTS)
def test_other_tables_name_the_features_too(name: str) -> None:
    results = RESULTS[name]
    first = results.measurements[0].problem
    for report in (
        rendered(memory_report(results), 200),
        rendered(sweep_report(results), 200),
        plain_report(results) if len(results.measurements) == 6 else "",
    ):
        if "softcap" in report:
            assert "softcap 50" in report
        if report:
            assert str(first.seqlen_k) in report


FEATURES = st.fixed_dictionaries(
    {},
    optional={
        "causal": st.booleans(),
        "window": st.tuples(*[st.one_of(st.none(), st.integers(0, 99))] * 2),
        "softcap": st.sampled_from([10.0, 50.0]),
        "alibi": st.booleans(),
        "sinks": st.booleans(),
        "mask": st.sampled_from(["bool", "float", "block"]),
        "dropout": st.sampled_from([0.0, 0.1, 0.5]),
        "page_size": st.sampled_from([16, 64]),
        "seqlen_k": st.integers(1, 100),
    },
)


@given(
    seqlen_q=st.integers(1, 100),
    shares=st.one_of(st.none(), st.lists(st.floats(0, 1), min_size=1, max_size=3)),
    packed=st.booleans(),
    features=FEATURES,
    direction=st.sampled_from(["fwd", "bwd"]),
    along=st.sampled_from(["seqlen", "head_dim"]),
)
def test_every_problem_has_a_line_and_words_are_apart(
    seqlen_q: int, shares: list[float] | None, packed: bool, features: dict, direction, along
) -> None:
    seqlen_k = features.pop("seqlen_k", seqlen_q)
    lengths = {}
    if shares is not None:
        lengths = {"batch": len(shares), "key_lengths": tuple(int(share * seqlen_k) for share in shares)}
        if packed:
            lengths["query_lengths"] = tuple(int(share * seqlen_q) for share in shares)
    problem = AttentionProblem.of(seqlen_q, seqlen_k=seqlen_k, **lengths, **features)
    key = problem_key(problem, direction, along)
    words = problem_line(key).split(", ")
    assert all(words)
    assert len(set(words)) == len(words)
    for feature, word in {
        "window": "window ",
        "softcap": "softcap ",
        "alibi": "ALiBi",
        "sinks": "sinks",
        "mask": "mask of",
        "dropout": "dropout ",
        "key_lengths": "key lengths ",
        "varlen": "varlen ",
        "block_table": "pages of ",
    }.items():
        assert (feature in problem.features) == any(word in one for one in words), feature
