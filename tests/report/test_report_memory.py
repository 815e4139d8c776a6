"""The three views of memory from made-up results, in a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.fake_results import make_measurement, make_results
from helpers.rendering import rendered
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from flashbench.report.memory import NO_MEMRAY, memory_report
from flashbench.report.plain import plain_report
from flashbench.report.profile import profile_report
from flashbench.results.record import Measurement, Results

KIB = 1024


def measured(engine: str, seqlen: int, *, apart: int = 0, **changes: Any) -> Measurement:
    """A row whose views agree, except for `apart` bytes that only memray found."""
    row = make_measurement(engine, seqlen)
    assert row.memory is not None
    workspace = row.memory.workspace_peak_bytes
    views: dict[str, Any] = {
        "workspace_peak_bytes": workspace + apart,
        "resident_delta_bytes": workspace + row.memory.output_bytes + 4 * KIB,
        "expected_workspace_bytes": None if engine == "torch-flash" else workspace,
    }
    return replace(row, memory=replace(row.memory, **(views | changes)))


def stand_in(engine: str, seqlen: int) -> Measurement:
    return measured(engine, seqlen, instrument="resident")


RESULTS = {
    "agree": make_results([measured(name, n) for n in (128, 4096) for name in ("standard", "flash")]),
    "documented apart": make_results(
        [
            measured(name, n, apart=444 * KIB if (name, n) == ("standard", 512) else 0)
            for n in (128, 512)
            for name in ("standard", "flash")
        ]
    ),
    "engines apart": make_results(
        [
            measured(name, n, apart=444 * KIB if name == "numpy" else 0)
            for n in (128, 512, 4096)
            for name in ("flash", "numpy", "torch-flash")
        ]
    ),
    "every pair": make_results(
        [measured("flash", 512, apart=200 * KIB, expected_workspace_bytes=0, resident_delta_bytes=0)]
    ),
    "no memray": make_results([stand_in(name, 512) for name in ("standard", "flash")]),
    "failures": make_results(
        [measured("flash", 512), make_measurement("numpy", 512, status="crashed", reason="signal 11")]
    ),
    "not measured": make_results([replace(measured("flash", 512), memory=None)]),
    "blocks": make_results([make_measurement("flash", 512, block=block) for block in (32, 64)]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_three_ways_at_80_columns(name: str, snapshot: SnapshotAssertion) -> None:
    text = rendered(memory_report(RESULTS[name]))
    assert max(map(len, text.splitlines())) <= 80
    assert text == snapshot


@pytest.mark.parametrize("name", ["agree", "documented apart", "engines apart", "no memray"])
def test_profile_flags_what_is_apart_and_says_why(name: str, snapshot: SnapshotAssertion) -> None:
    assert rendered(profile_report(RESULTS[name])) == snapshot


def flags(results: Results) -> int:
    return rendered(profile_report(results)).count("!")


def test_views_that_agree_have_no_flag() -> None:
    assert flags(RESULTS["agree"]) == 0
    assert flags(RESULTS["documented apart"]) == 2  # the figure, and the line below


def test_flag_stands_out() -> None:
    assert "\x1b[1;33m!" in rendered(profile_report(RESULTS["documented apart"]), color=True)


def test_plain_table_stays_as_documented() -> None:
    assert "!" not in plain_report(RESULTS["documented apart"])


def test_table_says_that_the_resident_figure_stands_in_for_memray() -> None:
    words = " ".join(rendered(profile_report(RESULTS["no memray"])).split())
    assert words.count(NO_MEMRAY) == 1
