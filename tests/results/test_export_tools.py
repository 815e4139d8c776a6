"""The real pyperf and google-benchmark's real compare.py read our files, as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from helpers.fake_exports import make_duel, with_failures
from helpers.fake_results import make_measurement, make_results, make_time

from flashbench.results.export import FORMATS
from flashbench.results.record import Results
from flashbench.results.store import load

COMPARE = Path("/usr/share/benchmark/compare.py")  # from Debian's package libbenchmark-tools
needs_compare = pytest.mark.skipif(not COMPARE.exists(), reason=f"no {COMPARE}: install libbenchmark-tools")


def timed(*, slower: float = 1.0) -> Results:
    """Flash at two lengths in nine fresh processes."""
    rows = []
    for seqlen in (1024, 2048):  # pyperf warns of times below 1 ms
        row = make_measurement("flash", seqlen, slower=slower)
        assert row.time is not None
        time = make_time(row.time.median_ns, processes=9, calls=5, spread=0.005)
        rows.append(msgspec.structs.replace(row, time=time))
    return make_results(rows)


def write(results: Results, path: Path, format_: str) -> str:
    path.write_text(FORMATS[format_].render(results), encoding="utf-8")
    return str(path)


def run(*words: str) -> str:
    """The tool's output. A tool that fails, or writes to stderr, fails the test."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def old_and_new(tmp_path: Path):
    """Paths of two files of a format, the second one 1.2 times slower."""

    def files(format_: str) -> tuple[str, str]:
        return (
            write(timed(), tmp_path / "old.json", format_),
            write(timed(slower=1.2), tmp_path / "new.json", format_),
        )

    return files


def test_pyperf_stats(old_and_new) -> None:
    text = run("-m", "pyperf", "stats", old_and_new("pyperf")[0])
    assert "Number of benchmarks: 2" in text
    assert text.count("Total number of run: 9") == 2
    assert text.count("Number of value per run: 5") == 2
    assert text.count("Number of warmup per run: 0") == 2
    medians = [float(found) for found in re.findall(r"Median \+- MAD: +([\d.]+) ms", text)]
    expected = [row.time.median_ns / 1e6 for row in timed().measurements if row.time]
    assert medians == pytest.approx(expected, rel=0.005)  # pyperf shows three digits


def test_pyperf_compare_to(old_and_new) -> None:
    text = run("-m", "pyperf", "compare_to", *old_and_new("pyperf"))
    assert text.count("1.20x slower") == 3  # both lengths and the geometric mean
    table = run("-m", "pyperf", "compare_to", "--table", *old_and_new("pyperf"))
    assert "| flash/fwd/N:2048/" in table


@pytest.mark.parametrize("command", ["show", "hist", "dump", "metadata", "check", "slowest"])
def test_pyperf_reads_it_with(old_and_new, command: str) -> None:
    text = run("-m", "pyperf", command, old_and_new("pyperf")[0])
    assert "N:1024" in text or "cpu_model_name: Example CPU 9000 @ 3.00GHz" in text
    assert "WARNING" not in text


@pytest.mark.parametrize("command", ["stats", "show", "hist", "dump", "metadata", "check", "slowest"])
def test_pyperf_reads_a_file_of_single_samples(repository, tmp_path: Path, command: str) -> None:
    documented = load(repository / "results" / "documented.json")
    assert run("-m", "pyperf", command, write(documented, tmp_path / "one.json", "pyperf"))


def test_pyperf_convert_keeps_everything(old_and_new, tmp_path: Path) -> None:
    from pyperf import BenchmarkSuite

    old = old_and_new("pyperf")[0]
    again = str(tmp_path / "again.json")
    run("-m", "pyperf", "convert", old, "-o", again)
    before, after = (BenchmarkSuite.load(path) for path in (old, again))
    for one, other in zip(before, after, strict=True):
        assert one.get_values() == other.get_values()
        assert one.get_metadata() == other.get_metadata()


def compare(*words: str) -> list[list[str]]:
    """The lines below the header of compare.py's table, split into words."""
    lines = run(str(COMPARE), "--no-color", *words).splitlines()
    return [line.split() for line in lines[3:]]


@needs_compare
def test_compare_py_sees_the_slowdown_and_tests_it(old_and_new) -> None:
    lines = compare("benchmarks", *old_and_new("google-benchmark"))
    by_name: dict[str, list[list[str]]] = {}
    for words in lines:
        by_name.setdefault(words[0], []).append(words[1:])
    name = "flash/fwd/N:1024/heads:1/head_dim:64/batch:1/float64/full/block:auto/threads:2"
    assert len(by_name[name]) == 9  # processes
    for change in (*by_name[name], *by_name[f"{name}_median"], *by_name[f"{name}_mean"]):
        assert float(change[0]) == pytest.approx(0.2, abs=0.02)
        assert change[0] == change[1]  # wall time stands for CPU time
    p_value, *said = by_name[f"{name}_pvalue"][0]
    assert float(p_value) < 0.001
    assert "9 vs 9" in " ".join(said)
    assert "WARNING" not in said
    assert float(by_name["OVERALL_GEOMEAN"][0][0]) == pytest.approx(0.2, abs=0.02)


@needs_compare
def test_compare_py_shows_aggregates_only(old_and_new) -> None:
    lines = compare("--display_aggregates_only", "benchmarks", *old_and_new("google-benchmark"))
    endings = [words[0].rsplit("/", 1)[-1] for words in lines]
    aggregates = [f"threads:2_{name}" for name in ("pvalue", "mean", "median", "stddev", "cv")]
    assert endings == [*aggregates * 2, "OVERALL_GEOMEAN"]


@needs_compare
def test_compare_py_filters_one_side_of_a_duel_against_the_other(tmp_path: Path) -> None:
    lines = compare(
        "--display_aggregates_only",
        "filters",
        write(make_duel(), tmp_path / "duel.json", "google-benchmark"),
        "side:a",
        "side:b",
    )
    medians = {" ".join(words[:-6]): words[-6] for words in lines if words[-7].endswith("_median")}
    assert [float(change) for change in medians.values()] == pytest.approx([0.2, 0.05], abs=0.01)
    assert all("[side:a vs. side:b]_median" in name for name in medians)


@needs_compare
def test_compare_py_reads_a_file_with_failures(tmp_path: Path) -> None:
    file = write(with_failures(), tmp_path / "some.json", "google-benchmark")
    done = subprocess.run(
        [sys.executable, str(COMPARE), "--no-color", "benchmarks", file, file],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "flash/fwd/N:64/heads:1/head_dim:64/batch:1/float64/full/block:7x7/threads:2" in done.stdout
