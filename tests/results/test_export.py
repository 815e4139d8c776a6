"""Every export format: against golden files, against its consumer's types, and back to the figures."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Annotated

import msgspec
import pytest
from helpers.fake_exports import make_duel, small_profile, with_failures, with_features
from helpers.fake_results import MACHINE, make_measurement, make_results
from pyperf import BenchmarkSuite
from syrupy.assertion import SnapshotAssertion

from flashbench.report.markdown import results_markdown
from flashbench.results.export import FORMATS
from flashbench.results.export.csv import COLUMNS
from flashbench.results.export.names import named
from flashbench.results.record import SCHEMA_VERSION, Disturbance, Results
from flashbench.results.store import load

FILES = {
    "profile": small_profile,
    "features": with_features,
    "failures": with_failures,
    "duel": lambda: make_duel(processes=3),
}


@pytest.fixture(params=FILES)
def results(request: pytest.FixtureRequest) -> Results:
    return FILES[request.param]()


@pytest.mark.parametrize("format_", FORMATS)
def test_golden(results: Results, format_: str, snapshot: SnapshotAssertion) -> None:
    text = FORMATS[format_].render(results)
    if format_ == "google-benchmark":  # the last digit of a deviation depends on Python's version
        text = re.sub(r"\d+\.\d{10,}", lambda number: f"{float(number[0]):.12g}", text)
    assert text.replace("\r\n", "\n") == snapshot


# The consumers' own types of what they read.


class Metric(msgspec.Struct, forbid_unknown_fields=True):
    """JsonNewMetric of Bencher and its https://bencher.dev/bmf.json."""

    value: float
    lower_value: float | None = None
    upper_value: float | None = None


BenchmarkName = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Bmf = dict[BenchmarkName, dict[Slug, Metric]]


class BenchmarkResult(msgspec.Struct, forbid_unknown_fields=True):
    """The type of that name in src/extract.ts of github-action-benchmark."""

    name: str
    value: float
    unit: str
    range: str | None = None
    extra: str | None = None


class GoogleContext(msgspec.Struct):
    """GoogleCppBenchmarkJson in the same file, without fields that google-benchmark itself may leave out."""

    date: str
    host_name: str
    executable: str
    num_cpus: int
    mhz_per_cpu: int
    caches: list[dict[str, str | int]]
    load_avg: list[float]
    library_build_type: str
    cpu_scaling_enabled: bool | None = None


class GoogleEntry(msgspec.Struct):
    name: str
    run_name: str
    run_type: str
    repetitions: int
    threads: int
    iterations: int
    real_time: float
    cpu_time: float
    time_unit: str
    repetition_index: int | None = None


class GoogleBenchmark(msgspec.Struct):
    context: GoogleContext
    benchmarks: list[GoogleEntry]


def test_bmf_is_what_bencher_parses(results: Results) -> None:
    document = msgspec.json.decode(FORMATS["bmf"].render(results), type=Bmf)
    assert list(document) == [name for name, row in named(results) if row.status == "ok"]
    for metrics in document.values():
        for metric in metrics.values():
            if metric.lower_value is not None and metric.upper_value is not None:
                assert metric.lower_value <= metric.value <= metric.upper_value


def test_github_action_benchmark_is_what_the_action_parses(results: Results) -> None:
    entries = msgspec.json.decode(
        FORMATS["github-action-benchmark"].render(results), type=list[BenchmarkResult]
    )
    assert entries
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        if entry.range is not None:  # extractRangeInfo.ts
            found = re.search(r"(?P<prefix>(\+-|±)\s*)(?P<value>\d.+)", entry.range)
            assert found is not None
            assert float(found["value"]) >= 0


def test_google_benchmark_has_the_fields_of_google_benchmark(results: Results) -> None:
    document = msgspec.json.decode(FORMATS["google-benchmark"].render(results), type=GoogleBenchmark)
    assert {entry.run_type for entry in document.benchmarks} <= {"iteration", "aggregate"}
    assert {entry.time_unit for entry in document.benchmarks} == {"ns"}
    assert document.context.cpu_scaling_enabled is False
    assert document.context.mhz_per_cpu == 3000  # from the CPU's name


def test_google_benchmark_says_what_failed() -> None:
    document = json.loads(FORMATS["google-benchmark"].render(with_failures()))
    errors = [entry["error_message"] for entry in document["benchmarks"] if entry.get("error_occurred")]
    assert errors == [
        "crashed: killed by signal 11",
        "wrong: error 0.25 is above 1e-12",
        "too_large: needs 32.00 GB | has 16.00 GB",
        "unsupported",
    ]


def test_what_a_format_takes_is_what_it_holds(results: Results) -> None:
    names = {
        "bmf": lambda text: set(json.loads(text)),
        "github-action-benchmark": lambda text: {
            entry["name"].removesuffix("/workspace_peak") for entry in json.loads(text)
        },
        "google-benchmark": lambda text: {entry["run_name"] for entry in json.loads(text)["benchmarks"]},
        "pyperf": lambda text: set(BenchmarkSuite.loads(text).get_benchmark_names()),
        "csv": lambda text: {row["name"] for row in csv.DictReader(io.StringIO(text, newline=""))},
    }
    assert names.keys() == FORMATS.keys()
    for name_, format_ in FORMATS.items():
        taken = {name for name, row in named(results) if format_.takes(row)}
        assert names[name_](format_.render(results)) == taken, name_


def test_a_side_of_a_duel_has_its_own_versions() -> None:
    suite = BenchmarkSuite.loads(FORMATS["pyperf"].render(make_duel()))
    versions = [bench.get_metadata()["flashbench_version"] for bench in suite]
    assert versions == ["0.1.0", "0.2.0"] * 2
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].render(make_duel()), newline="")))
    assert [row["flashbench_version"] for row in rows] == versions
    assert [row["duel_verdict"] for row in rows] == ["", "regressed", "", "inconclusive"]


def test_csv_reads_back_to_the_same_numbers(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].render(results), newline=""), strict=True))
    for row, measurement in zip(rows, results.measurements, strict=True):
        assert list(row) == list(COLUMNS)
        assert row["reason"] == (measurement.reason or "")
        assert row["causal"] == ("true" if measurement.problem.causal else "false")
        assert float(row["softmax_scale"]) == measurement.problem.scale
        figures = [
            ("time", "median_ns"),
            ("time", "low_ns"),
            ("rates", "gflops"),
            ("rates", "percent_of_peak"),
            ("rates", "gbps"),
            ("rates", "percent_of_bandwidth"),
            ("memory", "workspace_peak_bytes"),
            ("accuracy", "max_abs_error"),
            ("problem", "seqlen_k"),
            ("problem", "window_left"),
            ("problem", "softcap"),
            ("problem", "dropout"),
            ("problem", "page_size"),
        ]
        for record, field in figures:
            value = getattr(getattr(measurement, record), field, None)
            assert row[field] == "" if value is None else float(row[field]) == value


def test_bytes_a_second_are_in_every_format_that_has_a_place_for_rates() -> None:
    results = with_features()
    name, row = named(results)[1]
    assert row.rates is not None
    assert row.time is not None
    gbps, share = row.rates.gbps, row.rates.percent_of_bandwidth
    assert json.loads(FORMATS["bmf"].render(results))[name]["gbps"]["value"] == gbps
    (bench,) = [
        each for each in BenchmarkSuite.loads(FORMATS["pyperf"].render(results)) if each.get_name() == name
    ]
    metadata = bench.get_metadata()
    assert (metadata["gbps"], metadata["percent_of_bandwidth"]) == (gbps, share)
    entries = json.loads(FORMATS["google-benchmark"].render(results))["benchmarks"]
    for entry in entries:
        if entry["run_name"] == name and entry["run_type"] == "iteration":
            read = entry["bytes_per_second"] * entry["real_time"] / 1e9
            assert read == pytest.approx(gbps * row.time.median_ns)
    (entry,) = [
        each
        for each in json.loads(FORMATS["github-action-benchmark"].render(results))
        if each["name"] == name
    ]
    assert "16 GB/s, 80.0 % of bandwidth" in entry["extra"]
    assert "| 2048 |" in results_markdown(results)
    assert "GB/s" in results_markdown(results)


def test_what_a_cpu_quota_did_is_in_csv() -> None:
    throttled = Disturbance(moved=0.2, throttled_periods=3)
    row = msgspec.structs.replace(make_measurement("flash", 64), disturbance=throttled)
    machine = msgspec.structs.replace(MACHINE, cpu_quota=1.5)
    text = FORMATS["csv"].render(make_results([row, make_measurement("flash", 128)], machine=machine))
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(each["throttled_periods"], each["cpu_quota"]) for each in found] == [("3", "1.5"), ("", "1.5")]


def test_an_error_that_is_not_finite_is_nan_in_csv() -> None:
    row = make_measurement("flash", 64, status="wrong")
    assert row.accuracy is not None
    accuracy = msgspec.structs.replace(row.accuracy, max_abs_error=None)
    results = make_results([msgspec.structs.replace(row, accuracy=accuracy)])
    found = next(csv.DictReader(io.StringIO(FORMATS["csv"].render(results), newline="")))
    assert found["max_abs_error"] == "nan"


@pytest.mark.parametrize("format_", FORMATS)
def test_older_files_are_exported_too(repository, format_: str) -> None:
    documented = load(repository / "results" / "documented.json")
    assert documented.schema_version == SCHEMA_VERSION
    assert "flash/fwd/N:4096/" in FORMATS[format_].render(documented)


@pytest.mark.parametrize("format_", FORMATS)
def test_docs_describe_the_format(repository, format_: str) -> None:
    assert f"\n| `{format_}` |" in (repository / "docs" / "export.md").read_text(encoding="utf-8")


def test_docs_describe_every_column(repository) -> None:
    text = (repository / "docs" / "export.md").read_text(encoding="utf-8")
    table = text.split("| column | is |")[1].split("\n\n")[0]
    described = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()[1:]))
    assert sorted(described) == sorted(COLUMNS)
