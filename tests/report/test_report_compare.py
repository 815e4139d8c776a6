"""A comparison in its three formats, of made-up results."""

from __future__ import annotations

import json

import msgspec
import pytest
from helpers.fake_results import MACHINE, make_measurement, make_results
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.analysis.compare import Comparison, compare
from flashbench.report.compare import compare_json, compare_markdown, compare_report


@pytest.fixture
def comparison() -> Comparison:
    base = make_results(
        [
            make_measurement(engine, n)
            for engine in ("flash", "standard")
            for n in (128, 512, 1024, 2048, 4096)
        ]
    )
    changes = {128: 1.0, 512: 1.12, 1024: 0.9, 2048: 1.05}
    rows = [make_measurement("flash", n, slower=slower) for n, slower in changes.items()]
    rows += [
        make_measurement("flash", 4096, status="crashed", reason="killed by signal 11"),
        make_measurement("standard", 128, slower=1.3, spread=0.4),
        make_measurement("standard", 8192),
    ]
    peaks = {"float64": 101.0, "float32": 233.0}
    machine = msgspec.structs.replace(MACHINE, peak_gflops=peaks, libraries={"numpy": "2.1.0"})
    return compare(base, make_results(rows, machine=machine), base_name="old.json", new_name="new.json")


def test_table_at_80_columns(comparison: Comparison, snapshot: SnapshotAssertion) -> None:
    assert rendered(compare_report(comparison)) == snapshot


def test_table_at_120_columns(comparison: Comparison, snapshot: SnapshotAssertion) -> None:
    assert rendered(compare_report(comparison), width=120) == snapshot


def test_markdown(comparison: Comparison, snapshot: SnapshotAssertion) -> None:
    assert compare_markdown(comparison) == snapshot


def test_json_has_both_sides_and_the_exit_code(comparison: Comparison) -> None:
    document = json.loads(compare_json(comparison))
    assert document["exit_code"] == comparison.exit_code == 1
    assert document["pairs"][0]["base"]["time"]["samples_ns"]
    assert [pair["verdict"] for pair in document["pairs"]] == [pair.verdict for pair in comparison.pairs]


def test_blocks_that_differ_stand_in_the_title() -> None:
    base = make_results([make_measurement("flash", 128, block=32)])
    new = make_results([make_measurement("flash", 128)])
    text = rendered(compare_report(compare(base, new, force=True)), width=120)
    assert "batch 1, block 32 against auto\n" in text
