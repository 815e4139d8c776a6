"""What a layout counts, against sums over all pairs."""

from __future__ import annotations

import pytest
from helpers.plans import layouts
from hypothesis import given

from flashbench.errors import AttentionError, ConfigError
from flashbench.problem import AttentionProblem
from flashbench.studies.plan.layout import Layout


@given(layout=layouts())
def test_pairs_have_every_visible_score_once(layout: Layout) -> None:
    assert sum(pair.scores for pair in layout.pairs) == layout.problem.visible_pairs
    assert all(pair.scores > 0 for pair in layout.pairs)
    assert len(layout.pairs) + layout.hidden == len(layout.places) * len(layout.key_places)


@given(layout=layouts())
def test_each_host_that_needs_a_chunk_of_keys_receives_it_once_and_one_loads_it(layout: Layout) -> None:
    needed = {(pair.keys, layout.host_of(pair.queries)) for pair in layout.pairs}
    loaded = {pair.keys for pair in layout.pairs}
    rows = sum(len(layout.key_places[j]) for j, _ in needed) - sum(len(layout.key_places[j]) for j in loaded)
    assert sum(layout.received("fwd")) == rows * layout.kv_bytes
    assert sum(move.keys for move in layout.moves("bwd")) == rows * layout.kv_bytes


@given(layout=layouts())
def test_sums_travel_between_pairs_of_a_step_on_different_hosts(layout: Layout) -> None:
    rows = sum(
        len(layout.key_places[pair.keys])
        for before, pair in zip(layout.pairs, layout.pairs[1:], strict=False)
        if before.step == pair.step and layout.host_of(before.queries) != layout.host_of(pair.queries)
    )
    assert sum(move.sums for move in layout.moves("bwd")) == rows * layout.sum_bytes
    assert not any(move.sums for move in layout.moves("fwd"))


@given(layout=layouts())
def test_keys_move_most_if_no_host_keeps_them(layout: Layout) -> None:
    moved = sum(move.keys for move in layout.moves("fwd"))
    assert moved <= layout.most_key_bytes
    if layout.most_chunks == 1:
        assert moved == layout.most_key_bytes


def test_one_host_receives_nothing() -> None:
    layout = Layout(AttentionProblem.of(64, causal=True), 1, 16, 8)
    assert layout.received("fwd") == layout.received("bwd") == [0]


def test_two_full_hosts_receive_each_chunk_of_keys_once_together() -> None:
    problem = AttentionProblem.of(64, num_heads=4, num_kv_heads=2)
    layout = Layout(problem, 2, 16, 8)
    assert layout.received("fwd") == [problem.kv_bytes // 2] * 2


def test_a_graph_that_is_too_large_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as error:
        Layout(AttentionProblem.of(2**24), 64, 1024, 1024)
    assert str(error.value) == (
        "--chunk 1024 and --key-chunk 1024 make 16384 x 16384 pairs of 16777216 tokens, and a graph may have "
        "up to 262144"
    )


def test_in_flight_is_a_count() -> None:
    with pytest.raises(AttentionError, match="in_flight must be a whole number from 1 up"):
        Layout(AttentionProblem.of(64), 2, 8, 8, 0)
