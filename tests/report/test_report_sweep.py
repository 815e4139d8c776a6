"""The sweep's heatmaps and choices, from made-up results."""

from __future__ import annotations

import math

import pytest
from helpers.fake_results import make_measurement, make_results
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.report.sweep import sweep_report
from flashbench.results.record import Results


def make_sweep(*, blocks: tuple[int, ...] = (16, 32, 64, 128, 256)) -> Results:
    """A sweep whose best block is near 32 + N / 32. Block 256 is too large for the longest length."""
    rows = []
    for causal in (False, True):
        for seqlen in (128, 1024, 4096):
            for block in blocks:
                large = causal and (seqlen, block) == (4096, 256)
                slower = 1 + 0.15 * abs(math.log2(block / (32 + seqlen / 32)))
                rows.append(
                    make_measurement(
                        "flash",
                        seqlen,
                        block=block,
                        causal=causal,
                        slower=slower,
                        status="too_large" if large else "ok",
                        reason="needs 2.00 GB, 1.00 GB is free" if large else None,
                    )
                )
            rows.append(make_measurement("flash", seqlen, causal=causal, slower=1.02))
            if not causal:
                rows.append(make_measurement("standard", seqlen))
    return make_results(rows, kind="sweep")


def test_heatmaps_at_80_columns(snapshot: SnapshotAssertion) -> None:
    assert rendered(sweep_report(make_sweep())) == snapshot


def test_heatmaps_at_120_columns(snapshot: SnapshotAssertion) -> None:
    assert rendered(sweep_report(make_sweep()), width=120) == snapshot


@pytest.mark.parametrize("width", [60, 80, 120])
def test_more_block_sizes_than_fit_make_more_tables(width: int) -> None:
    blocks = tuple(range(16, 272, 16))
    text = rendered(sweep_report(make_sweep(blocks=blocks)), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert all(f" {block} " in text or f" {block}\n" in text for block in blocks)


def test_the_best_is_marked_by_a_word_and_not_by_colour_alone() -> None:
    plain = rendered(sweep_report(make_sweep()))
    assert plain.count(" best ") >= 6
    assert "\x1b[" not in plain
    assert "\x1b[" in rendered(sweep_report(make_sweep()), color=True)


def test_a_sweep_in_which_nothing_ran_still_says_why(snapshot: SnapshotAssertion) -> None:
    rows = [
        make_measurement("flash", 128, block=block, status="crashed", reason="killed by signal 11")
        for block in (16, 32)
    ]
    assert rendered(sweep_report(make_results(rows, kind="sweep"))) == snapshot


def test_a_sweep_without_points_says_so() -> None:
    assert "no point was measured" in rendered(sweep_report(make_results([], kind="sweep")))
