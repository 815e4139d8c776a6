"""Paths of 16-bit dtypes in tables and charts: named, and each compared with its own peak."""

from __future__ import annotations

from helpers.fake_results import MACHINE, PATH_PEAKS, make_measurement, make_results
from helpers.rendering import rendered
from helpers.report_files import make_duel, sources
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from flashbench.analysis.compare import compare
from flashbench.report.charts.roofline import roofs
from flashbench.report.charts.series import make_panels, measured_peaks
from flashbench.report.compare import compare_report
from flashbench.report.duel import duel_report, duel_title
from flashbench.report.machine import machine_report
from flashbench.report.memory import memory_report
from flashbench.report.page.measured import measured_tables
from flashbench.report.profile import profile_report
from flashbench.report.sweep import sweep_report
from flashbench.results.export.csv import render
from flashbench.results.export.names import benchmark_name
from flashbench.results.record import Measurement, Results

HALF_MACHINE = replace(MACHINE, peak_gflops=MACHINE.peak_gflops | PATH_PEAKS, read_bandwidth_gbps=20.0)
SIZES = {"dtype": "bfloat16", "num_heads": 8}
FEW_COLUMNS = 80


def measured(engine: str, seqlen: int, **what: object) -> Measurement:
    return make_measurement(engine, seqlen, **SIZES | what)


def of(*rows: Measurement) -> Results:
    return make_results(list(rows), machine=HALF_MACHINE)


def two_paths() -> Results:
    """Both paths by name, beside an engine without paths, which is compared with the fastest one."""
    return of(
        *(
            row
            for seqlen in (512, 4096)
            for row in (
                measured("flash", seqlen, path="convert", path_asked="convert"),
                measured("flash", seqlen, path="amx", path_asked="amx"),
                _peer(seqlen),
            )
        )
    )


def _peer(seqlen: int) -> Measurement:
    row = measured("torch-flash", seqlen, path="amx", slower=4.0)
    return replace(row, isa_path=None)


def chosen() -> Results:
    """The path that the engine chose, and the one path of another engine."""
    return of(measured("standard", 512, path="convert"), measured("flash", 512, path="amx"))


def test_paths_asked_for_are_rows_of_one_table(snapshot: SnapshotAssertion) -> None:
    text = rendered(profile_report(two_paths()))
    assert max(map(len, text.splitlines())) <= FEW_COLUMNS
    assert text == snapshot


def test_a_path_that_was_chosen_is_named_below_the_table() -> None:
    text = rendered(profile_report(chosen()))
    assert "products: standard convert, flash amx" in text
    assert "Speed-up" in text  # still the documented layout


def test_dtypes_with_one_path_name_none() -> None:
    rows = [make_measurement("flash", 512, dtype="float32", path="fma")]
    assert "products" not in rendered(profile_report(make_results(rows)))


def test_every_table_of_memory_and_blocks_tells_the_paths_apart() -> None:
    results = two_paths()
    assert "flash (convert)" in rendered(memory_report(results))
    assert "Block" not in rendered(memory_report(results))
    rows = [
        measured("flash", 512, path=path, path_asked=path, block=block)
        for path in ("convert", "amx")
        for block in (32, 64)
    ]
    text = rendered(sweep_report(of(*rows)))
    assert "flash (convert), forward" in text
    assert "flash (amx), forward" in text
    assert "products: flash amx" in text


def test_the_page_has_the_path_of_every_row() -> None:
    (table,) = measured_tables(sources(two_paths())).values()
    words = [[getattr(cell, "text", cell) for cell in row] for row in table.rows]
    assert [row.count("convert") for row in words] == [1, 0, 0] * 2
    assert [row.count("amx") for row in words] == [0, 1, 0] * 2


def test_a_chart_has_a_line_for_each_path_and_every_peak() -> None:
    (panel,) = make_panels(sources(two_paths()))
    assert [series.name for series in panel.series] == ["flash (convert)", "flash (amx)", "torch-flash"]
    assert len({series.look.dash for series in panel.series[:2]}) == 2
    assert measured_peaks(panel) == [230.0, 2200.0]
    assert [(roof.peak_gflops, roof.bandwidth_gbps) for roof in roofs(panel)] == [
        (230.0, 20.0),
        (2200.0, 20.0),
    ]


def test_a_machine_shows_the_path_of_each_dtype_and_what_it_lacks(snapshot: SnapshotAssertion) -> None:
    machine = replace(
        HALF_MACHINE,
        paths={"float64": "fma", "float32": "fma", "bfloat16": "convert", "float16": "convert"},
        paths_lacking={"amx": "this CPU lacks amx_bf16, amx_tile", "dot_bf16": "this CPU lacks avx512_bf16"},
    )
    text = rendered(machine_report(make_results([], kind="machine", machine=machine)))
    assert max(map(len, text.splitlines())) <= FEW_COLUMNS
    assert text == snapshot


def test_a_duel_of_two_paths_names_the_faster_one() -> None:
    results = make_duel()
    rows = [
        measured("flash", row.problem.seqlen_q, path=path, path_asked=path)
        for row, path in zip(results.measurements, ("amx", "convert") * 2, strict=True)
    ]
    sides = {
        side: {"engine": "flash", "python": None, "path": path}
        for side, path in (("a", "amx"), ("b", "convert"))
    }
    results = replace(
        results,
        measurements=[replace(row, side=side) for row, side in zip(rows, "abab", strict=True)],
        config={**results.config, **sides, "threshold": 0.05},
    )
    text = rendered(duel_report(results))
    assert max(map(len, text.splitlines())) <= FEW_COLUMNS
    assert "A: flash (amx)" in text
    assert "flash (amx) faster" in text
    assert duel_title(results) == "B flash (convert) against A flash (amx)"


def test_files_are_matched_by_the_path_asked_for_and_name_paths_that_differ() -> None:
    before = of(measured("flash", 512, path="convert"))
    after = of(measured("flash", 512, path="amx"))
    words = " ".join(rendered(compare_report(compare(before, after))).split())
    assert "path convert against amx" in words
    both = two_paths()
    comparison = compare(both, both)
    assert len(comparison.pairs) == len(both.measurements)
    assert "flash (amx)" in rendered(compare_report(comparison))


def test_exported_names_have_a_path_that_was_asked_for() -> None:
    assert "/path:amx/" in benchmark_name(measured("flash", 512, path="amx", path_asked="amx"))
    assert "path:" not in benchmark_name(measured("flash", 512, path="amx"))


def test_exported_rows_have_the_path_and_its_peak() -> None:
    header, *lines = (line.split(",") for line in render(two_paths()).splitlines()[:4])
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert [row["isa_path"] for row in rows] == ["convert", "amx", ""]
    assert [float(row["peak_gflops"]) for row in rows] == [230.0, 2200.0, 2200.0]
