"""Any measurement reads back from every format: medians, samples and words."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from typing import Any

import msgspec
import pytest
from helpers.fake_results import make_measurement, make_results
from hypothesis import given
from hypothesis import strategies as st
from pyperf import BenchmarkSuite

from flashbench.report.markdown import results_markdown
from flashbench.results.export import FORMATS
from flashbench.results.export.names import named
from flashbench.results.record import Measurement, Results, Time

SAMPLES = st.lists(st.lists(st.integers(1, 10**11), max_size=5), max_size=4)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    """Measurements of any engine, with any samples, or with none."""
    row = make_measurement("flash", draw(st.integers(1, 9)), causal=draw(st.booleans()))
    samples = draw(SAMPLES)
    flat = [sample for process in samples for sample in process]
    median = float(statistics.median(flat)) if flat else float(draw(st.integers(1, 10**11)))
    time = Time(
        samples_ns=samples,
        median_ns=median,
        low_ns=float(min(flat, default=median)),
        high_ns=float(max(flat, default=median)),
    )
    kernel, reason = draw(TEXT), draw(TEXT)
    return msgspec.structs.replace(row, engine=draw(TEXT), time=time, kernel=kernel, reason=reason)


RESULTS = st.lists(measurements(), min_size=1, max_size=5).map(make_results)


def medians(results: Results) -> dict[str, float]:
    return {name: row.time.median_ns for name, row in named(results) if row.time}


@given(RESULTS)
def test_bmf_round_trips_medians(results: Results) -> None:
    document = json.loads(FORMATS["bmf"].render(results))
    assert {name: metrics["latency"]["value"] for name, metrics in document.items()} == medians(results)


@given(RESULTS)
def test_github_action_benchmark_round_trips_medians(results: Results) -> None:
    entries = json.loads(FORMATS["github-action-benchmark"].render(results))
    found = {entry["name"]: entry["value"] * 1e6 for entry in entries if entry["unit"] == "ms"}
    assert found == pytest.approx(medians(results), rel=1e-15)


@given(RESULTS)
def test_google_benchmark_round_trips_the_medians_of_processes(results: Results) -> None:
    entries = json.loads(FORMATS["google-benchmark"].render(results))["benchmarks"]
    found: dict[str, list[float]] = {}
    for entry in entries:
        if entry["run_type"] == "iteration":
            assert entry["repetition_index"] == len(found.setdefault(entry["name"], []))
            found[entry["name"]].append(entry["real_time"])
    expected = {
        name: [statistics.median(process) for process in row.time.samples_ns if process]
        or [row.time.median_ns]
        for name, row in named(results)
        if row.time
    }
    assert found == expected
    for entry in entries:
        if entry.get("aggregate_name") == "median":
            assert entry["real_time"] == statistics.median(found[entry["run_name"]])


@given(RESULTS)
def test_pyperf_round_trips_every_sample(results: Results) -> None:
    suite = BenchmarkSuite.loads(FORMATS["pyperf"].render(results))
    for bench, (name, row) in zip(suite, named(results), strict=True):
        assert row.time is not None
        samples = [process for process in row.time.samples_ns if process] or [[row.time.median_ns]]
        assert bench.get_name() == name
        assert [[round(value * 1e9) for value in run.values] for run in bench.get_runs()] == samples
        assert bench.median() == pytest.approx(row.time.median_ns / 1e9, rel=1e-15)


@given(RESULTS)
def test_csv_round_trips_medians_and_words(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].render(results), newline="")))
    assert {row["name"]: float(row["median_ns"]) for row in rows} == medians(results)
    for row, measurement in zip(rows, results.measurements, strict=True):
        for column, text in (("engine", measurement.engine), ("reason", measurement.reason or "")):
            assert row[column] == (f"'{text}" if text[:1] in tuple("=+-@") else text)


@given(RESULTS)
def test_markdown_shows_every_median(results: Results) -> None:
    def numbers(text: str) -> list[float]:
        cells = [cell.strip() for line in text.splitlines() for cell in re.split(r"(?<!\\)\|", line)]
        return [float(cell) for cell in cells if re.fullmatch(r"\d+\.\d{2,4}", cell)]

    shown = numbers(results_markdown(results))
    for median in medians(results).values():
        assert any(abs(number - median / 1e6) <= 0.0051 for number in shown)


def test_a_sample_of_zero_is_still_a_value_for_pyperf() -> None:
    row = make_measurement("flash", 64)
    time = Time(samples_ns=[[0, 100]], median_ns=50.0, low_ns=0.0, high_ns=100.0)
    text = FORMATS["pyperf"].render(make_results([msgspec.structs.replace(row, time=time)]))
    values: Any = BenchmarkSuite.loads(text).get_benchmarks()[0].get_values()
    assert values == (1e-9, 1e-7)
