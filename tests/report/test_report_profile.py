"""The profile's tables from made-up results, in a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.fake_results import make_measurement, make_results
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.errors import ConfigError
from flashbench.report.plain import check_plain, plain_report
from flashbench.report.profile import profile_report
from flashbench.results.record import Measurement, Results
from flashbench.studies.study import Study


def failing_rows() -> list[Measurement]:
    """Rows with every status but ok, among rows that are ok."""
    sizes = {"dtype": "float32", "num_heads": 8, "num_kv_heads": 2, "causal": True, "direction": "bwd"}
    return [
        make_measurement("flash", 512, **sizes),
        make_measurement("standard", 512, status="crashed", reason="killed by signal 11", **sizes),
        make_measurement("numpy", 512, status="wrong", reason="dq is off the oracle by 0.25", **sizes),
        make_measurement("torch-flash", 512, status="timeout", reason="no answer within 600 s", **sizes),
        make_measurement("flash", 4096, **sizes),
        make_measurement("standard", 4096, status="too_large", reason="needs 9 GB, 4 GB are free", **sizes),
        make_measurement("numpy", 4096, status="out_of_memory", reason="MemoryError", **sizes),
        make_measurement("torch-flash", 4096, status="unsupported", reason="no GQA", **sizes),
    ]


def engines() -> list[Measurement]:
    """Four engines on two lengths."""
    names = ("flash", "standard", "numpy", "torch-flash")
    return [make_measurement(name, seqlen, num_heads=8) for seqlen in (512, 1024) for name in names]


def curve(*engines: str, **problem: Any) -> list[Measurement]:
    """Each engine on two lengths with 1, 2 and 4 threads, of which the last crashes at the second length."""
    rows = []
    for seqlen in (512, 1024):
        for engine in engines:
            for threads, slower in ((1, 4.0), (2, 2.1), (4, 1.25)):
                failed = {"status": "crashed", "reason": "killed by signal 11"}
                wanted = failed if (seqlen, threads) == (1024, 4) else {}
                row = make_measurement(engine, seqlen, slower=slower, **wanted, **problem)
                rows.append(msgspec.structs.replace(row, threads=threads))
    return rows


RESULTS = {
    "scaling": make_results(curve("flash", "torch-flash", num_heads=8)),
    "scaling of one engine": make_results(curve("flash")),
    "documented": make_results(),
    "documented too large": make_results(
        [
            *make_results().measurements,
            make_measurement("standard", 16384, status="too_large", reason="needs 2.00 GB, 1.00 GB is free"),
            make_measurement("flash", 16384),
        ]
    ),
    "documented blocks": make_results(
        [make_measurement(engine, 128, block=32, batch=8) for engine in ("standard", "flash")]
    ),
    "engines": make_results(engines()),
    "failures": make_results(failing_rows()),
    "two groups": make_results(
        [make_measurement(engine, 128, causal=c) for c in (False, True) for engine in ("standard", "flash")]
    ),
    "head sizes": make_results([make_measurement("flash", 2048, head_dim=size) for size in (40, 64, 80)]),
    "block sizes": make_results(
        [make_measurement("flash", 512, block=block) for block in (32, 64)] + [make_measurement("numpy", 512)]
    ),
    "nothing": make_results([]),
}


def without_extras(results: Results) -> Results:
    """As measured with --no-memory and --no-check."""
    rows = [msgspec.structs.replace(row, memory=None, accuracy=None) for row in results.measurements]
    return msgspec.structs.replace(results, measurements=rows)


@pytest.mark.parametrize("name", RESULTS)
def test_tables_at_80_columns(name: str, snapshot: SnapshotAssertion) -> None:
    assert rendered(profile_report(RESULTS[name])) == snapshot


def test_tables_without_memory_and_errors_leave_those_columns_out(snapshot: SnapshotAssertion) -> None:
    assert rendered(profile_report(without_extras(RESULTS["documented"]))) == snapshot


def test_a_wide_terminal_has_headers_of_one_line(snapshot: SnapshotAssertion) -> None:
    assert rendered(profile_report(RESULTS["documented"]), width=120) == snapshot


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_cut_or_too_wide(name: str, width: int) -> None:
    text = rendered(profile_report(RESULTS[name]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_a_title_stands_above_the_machine() -> None:
    results = msgspec.structs.replace(RESULTS["documented"], config={"title": "A study"})
    assert rendered(profile_report(results)).startswith("A study\nExample CPU 9000")


def test_the_plain_table_has_the_documented_layout(snapshot: SnapshotAssertion) -> None:
    text = plain_report(RESULTS["documented too large"])
    lines = text.splitlines()
    assert lines[0] == "\N{BAR CHART} Flash Attention Memory Profiling"
    assert lines[1] == "=" * 36
    assert lines[2] == ""
    assert lines[3] == "Seq Len    Standard Mem    Flash Mem       Savings    Time (ms) "
    assert lines[4] == "-" * 80
    assert text == snapshot


def test_a_documented_figure_prints_as_documented() -> None:
    standard, flash = make_results().measurements[:2]
    memory = msgspec.structs.replace(flash.memory, workspace_peak_bytes=8192)
    time = msgspec.structs.replace(flash.time, median_ns=1_230_000.0)
    results = make_results([standard, msgspec.structs.replace(flash, memory=memory, time=time)])
    row = plain_report(results).splitlines()[5]
    assert row == "128        128.00 KB       8.00 KB         16.0x      1.23      "


def test_plain_names_the_problem_when_there_are_several(snapshot: SnapshotAssertion) -> None:
    assert plain_report(RESULTS["two groups"]) == snapshot


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (Study(engines=["flash"]), "not flash with 1"),
        (Study(engines=["standard", "flash", "numpy"]), "not standard and flash and numpy with 1"),
        (Study(block_sizes=[32, 64]), "not standard and flash with 2"),
    ],
)
def test_plain_is_refused_for_anything_else(study: Study, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_plain(study)
    check_plain(Study(engines=["flash", "standard"], block_sizes=[32]))
    with pytest.raises(ConfigError, match="of one number of threads, not of 1, 2"):
        check_plain(Study(threads=[1, 2]))
    with pytest.raises(ConfigError, match="of one path, not of auto, convert"):
        check_plain(Study(dtypes=["bfloat16"], paths=["auto", "convert"]))


def test_energy_has_a_column_where_it_was_measured_and_none_elsewhere() -> None:
    results = make_results()
    assert "Energy" not in rendered(profile_report(results))
    rows = [
        msgspec.structs.replace(row, energy_joules=0.01234 if row.engine == "flash" else None)
        for row in results.measurements
    ]
    table = rendered(profile_report(msgspec.structs.replace(results, measurements=rows)), 120)
    assert "Energy" in table
    assert table.count("12.3") == len(rows) / 2


def test_outliers_are_counted_below_the_table() -> None:
    results = make_results()
    assert "interquartile" not in rendered(profile_report(results))
    row = results.measurements[0]
    assert row.time is not None
    far_out = msgspec.structs.replace(row, time=msgspec.structs.replace(row.time, outliers=3))
    found = msgspec.structs.replace(results, measurements=[far_out, *results.measurements[1:]])
    assert "3 of 350 calls lie 3 interquartile ranges or more outside" in rendered(profile_report(found), 120)
