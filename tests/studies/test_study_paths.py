"""Paths in studies: which points they span, how workers get them, and what records say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flashbench.engines import Settings, get_engine, path_taken
from flashbench.errors import ConfigError
from flashbench.kernels.products import paths as products
from flashbench.kernels.products.paths import PATHS, obstacle, path_of
from flashbench.problem import AttentionProblem
from flashbench.results.record import Measurement, Results
from flashbench.results.store import decode, encode, load
from flashbench.studies import workload
from flashbench.studies.duel.admission import arguments
from flashbench.studies.resume import key_of
from flashbench.studies.rows import rows_of
from flashbench.studies.runner import run
from flashbench.studies.study import Study

# Both compute bfloat16 on every CPU.
CONVERT, OTHER = "convert", "dot_bf16-emulated"


def half(**settings: Any) -> Study:
    return Study(**{"dtypes": ["bfloat16"], "engines": ["flash"], "seq_lens": [48], "threads": 1} | settings)


def paths_of(study: Study) -> list[tuple[str, str, str | None]]:
    return [(row.point.engine, row.path or "", row.point.settings.path) for row in rows_of(study)]


def test_the_engine_chooses_unless_a_path_is_named() -> None:
    fastest = path_of("bfloat16").product.name
    assert paths_of(half()) == [("flash", fastest, None)]
    assert paths_of(half(paths=[CONVERT, OTHER])) == [("flash", CONVERT, CONVERT), ("flash", OTHER, OTHER)]
    assert paths_of(half(paths=["auto", CONVERT])) == [("flash", fastest, None), ("flash", CONVERT, CONVERT)]


def test_an_engine_without_paths_has_one_row_for_all_of_them() -> None:
    found = paths_of(half(engines=["numpy", "flash"], paths=[CONVERT, OTHER]))
    assert found == [("numpy", "", None), ("flash", CONVERT, CONVERT), ("flash", OTHER, OTHER)]


def test_each_dtype_takes_the_paths_that_compute_it() -> None:
    study = half(dtypes=["float32", "bfloat16"], paths=["fma", CONVERT])
    assert paths_of(study) == [("flash", "fma", "fma"), ("flash", CONVERT, CONVERT)]


@pytest.mark.parametrize(
    ("dtypes", "paths", "reason"),
    [
        (["float32"], [CONVERT], "no path of convert computes float32"),
        (["float32", "bfloat16"], [CONVERT], "no path of convert computes float32"),
        (["bfloat16"], ["fast"], "there is no path 'fast'; known: amx_split, fma, "),
        (["bfloat16"], [], "paths must name at least one value"),
    ],
)
def test_a_path_that_cannot_compute_the_study_is_refused(
    dtypes: list[str], paths: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        half(dtypes=dtypes, paths=paths).points()


@pytest.fixture
def lesser_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU without any feature that a path needs."""
    monkeypatch.setattr(products, "usable_features", set)
    path_of.cache_clear()
    yield
    path_of.cache_clear()


@pytest.mark.usefixtures("lesser_cpu")
@pytest.mark.parametrize("name", [name for name, path in PATHS.items() if path.needs])
def test_a_path_of_another_cpu_is_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(ConfigError, match=f"path {name} cannot be used: this CPU lacks"):
        rows_of(half(dtypes=[PATHS[name].dtypes[0]], paths=[name]))


def test_workers_get_the_path_and_older_ones_no_word_of_it() -> None:
    (point,) = half(paths=[CONVERT]).points()
    assert workload.arguments(point, 0)["settings"]["path"] == CONVERT
    assert Settings(**workload.arguments(point, 0)["settings"]).path == CONVERT
    (plain,) = half().points()
    assert "path" not in workload.arguments(plain, 0)["settings"]
    assert "path" not in arguments([plain], "flash")["asked"][0]["settings"]


def test_few_queries_run_the_product_that_decodes() -> None:
    flash = get_engine("flash")
    step = AttentionProblem.of(1, seqlen_k=64, dtype="bfloat16")
    for name, path in PATHS.items():
        if "bfloat16" in path.dtypes and obstacle(path) is None:
            assert path_taken(flash, step, "fwd", Settings(path=name)) == path.decode.name
    assert path_taken(flash, step, "fwd", Settings(use_simd=False)) is None


@pytest.fixture(scope="module")
def measured() -> Results:
    study = half(engines=["flash", "numpy"], paths=[CONVERT, OTHER], repeats=1, rounds=1, memory=False)
    return run(study, command=["flashbench", "profile"])


def row_of(results: Results, path: str | None) -> Measurement:
    (row,) = [row for row in results.measurements if row.isa_path == path]
    return row


def test_a_record_names_its_path_and_has_the_percentage_of_that_path_s_peak(measured: Results) -> None:
    assert [row.status for row in measured.measurements] == ["ok"] * 3
    for path in (CONVERT, OTHER):
        row = row_of(measured, path)
        assert (row.engine, row.path_asked) == ("flash", path)
        assert row.rates is not None
        peak = measured.machine.peak_gflops[f"bfloat16/{path}"]
        assert row.rates.percent_of_peak == pytest.approx(100 * row.rates.gflops / peak)
    numpy = row_of(measured, None)
    assert (numpy.engine, numpy.path_asked) == ("numpy", None)
    fastest = path_of("bfloat16").product.name
    assert f"bfloat16/{fastest}" in measured.machine.peak_gflops
    assert decode(encode(measured), name="paths.json") == measured


def test_the_environment_s_path_is_that_of_workers_too(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    words = (
        "profile",
        "-e",
        "flash",
        "--dtype",
        "bfloat16,float32",
        "-n",
        "48",
        "--rounds",
        "1",
        "--threads",
        "1",
    )
    subprocess.run(
        [sys.executable, "-m", "flashbench", *words, "--no-memory", "--json", str(file)],
        env=os.environ | {"FLASHBENCH_PATH": OTHER},
        check=True,
        capture_output=True,
    )
    results = load(file)
    assert {row.problem.dtype: row.isa_path for row in results.measurements} == {
        "bfloat16": OTHER,
        "float32": "fma",  # the path is of another dtype
    }
    assert {row.path_asked for row in results.measurements} == {None}
    assert results.processes["flash"].environment["FLASHBENCH_PATH"] == OTHER


def test_a_run_goes_on_with_the_rows_of_each_path(measured: Results) -> None:
    study = half(engines=["flash", "numpy"], paths=[CONVERT, OTHER], repeats=1, rounds=1, memory=False)
    again = run(study, command=["flashbench", "profile"], earlier=measured)
    assert len({key_of(row) for row in measured.measurements}) == 3
    for before, after in zip(measured.measurements, again.measurements, strict=True):
        assert before.time is not None
        assert after.time is not None
        assert after.time.samples_ns == before.time.samples_ns


def test_a_file_older_than_paths_is_read_and_its_rows_go_on(measured: Results) -> None:
    document = msgspec.json.decode(encode(measured))
    for row in document["measurements"]:
        del row["isa_path"], row["path_asked"]
    for name in ("paths", "paths_lacking"):
        del document["machine"][name]
    del document["config"]["paths"]
    older = decode(msgspec.json.encode(document), name="older.json")
    assert [row.isa_path for row in older.measurements] == [None] * 3
    rows = rows_of(half())
    assert key_of(rows[0].measurement(None)) == key_of(older.measurements[0])
