"""Conclusions of a sweep about block sizes."""

from __future__ import annotations

import msgspec
import pytest
from helpers.fake_results import make_measurement

from flashbench.analysis.blocks import block_labels, block_rows, has_blocks, recommended_blocks


@pytest.mark.parametrize(
    ("seqlen", "sizes"),
    [
        (1, (32,)),
        (255, (32,)),
        (256, (64,)),
        (1023, (64,)),
        (1024, (64, 128)),
        (1025, (128,)),
        (2048, (128,)),
        (2049, (64, 128)),
        (10**6, (64, 128)),
    ],
)
def test_the_recommendation_is_the_documented_one(seqlen: int, sizes: tuple[int, ...]) -> None:
    assert recommended_blocks(seqlen) == sizes


def test_costs_are_over_the_best_fixed_size_and_auto_may_be_below_it() -> None:
    rows = [
        make_measurement("flash", 4096, block=32, slower=1.5, spread=0),
        make_measurement("flash", 4096, block=64, spread=0),
        make_measurement("flash", 4096, block=128, slower=1.2, spread=0),
        make_measurement("flash", 4096, slower=0.9, spread=0),
    ]
    (row,) = block_rows(rows)
    assert row.best is rows[1]
    assert row.fastest is rows[3]
    assert row.cost("auto") == pytest.approx(0.9, rel=1e-3)
    assert row.recommended_costs() == pytest.approx([1.0, 1.2], rel=1e-3)
    assert row.cost("16") is None


def test_points_that_failed_or_were_wrong_are_never_best() -> None:
    rows = [
        make_measurement("flash", 128, block=16, slower=0.5, status="wrong"),
        make_measurement("flash", 128, block=32, status="crashed"),
        make_measurement("flash", 128, block=64),
    ]
    (row,) = block_rows(rows)
    assert row.best is row.fastest is rows[2]
    assert row.cost("16") is None


def test_no_point_at_all_gives_no_best() -> None:
    (row,) = block_rows([make_measurement("flash", 128, block=16, status="crashed")])
    assert row.best is None
    assert row.fastest is None
    assert row.recommended_costs() == []
    assert not row.is_tie("16")


def test_overlapping_quartiles_are_a_tie() -> None:
    rows = [
        make_measurement("flash", 128, block=32, spread=0.05),
        make_measurement("flash", 128, block=64, spread=0.05, slower=1.01),
        make_measurement("flash", 128, block=128, spread=0.05, slower=2),
    ]
    (row,) = block_rows(rows)
    assert row.is_tie("64")
    assert not row.is_tie("128")


def test_sizes_are_listed_from_small_to_large_and_auto_last() -> None:
    rows = [make_measurement("flash", 128, block=block) for block in (None, 128, 16, 64)]
    assert block_labels(rows) == ["16", "64", "128", "auto"]
    assert has_blocks(rows)
    assert not has_blocks([make_measurement("numpy", 128)])


def test_sizes_that_the_engine_cuts_to_the_same_stay_apart() -> None:
    asked = [make_measurement("flash", 128, block=block) for block in (128, 256)]
    cut = [asked[0], msgspec.structs.replace(asked[1], block_q=128, block_k=128)]
    assert block_labels(cut) == ["128", "256"]
    assert list(block_rows(cut)[0].points.values()) == cut
