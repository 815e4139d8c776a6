"""The replay in benchmarks/ticket_order.py: each tile once, as the kernels number them; times that add up."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.engines import Settings, get_engine
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.problem import AttentionProblem

BLOCKS = Blocks(16, 32)
SHAPES = st.fixed_dictionaries(
    {
        "heads": st.sampled_from([1, 2, 6]),
        "kv_heads": st.sampled_from([1, 2]),
        "seqlen": st.integers(1, 300),
        "causal": st.booleans(),
        "batch": st.integers(1, 3),
    }
).filter(lambda shape: shape["heads"] % shape["kv_heads"] == 0)
THREADS = st.sampled_from([1, 2, 3, 8, 64, 192])


@pytest.fixture(scope="module")
def replay() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        import ticket_order

        yield ticket_order


def tiles_of(replay: ModuleType, shape: dict[str, Any], threads: int) -> Any:
    problem = AttentionProblem.of(
        shape["seqlen"],
        num_heads=shape["heads"],
        num_kv_heads=shape["kv_heads"],
        batch=shape["batch"],
        causal=shape["causal"],
    )
    return replay.Tiles(problem, BLOCKS, threads)


def keys_of(tile: Any) -> float:
    return float(tile.end_key - tile.first_key)


@given(shape=SHAPES, threads=THREADS)
def test_each_tile_has_one_ticket_and_one_link(replay: Any, shape: dict[str, Any], threads: int) -> None:
    tiles = tiles_of(replay, shape, threads)
    starts = range(0, shape["seqlen"], BLOCKS.block_q)
    every = sorted(itertools.product(range(shape["batch"]), range(shape["heads"]), starts))
    assert sorted((tile.b, tile.h, tile.start) for tile in tiles.each()) == every
    links = tiles.tasks // tiles.chains
    found = [tiles.of_link(*place) for place in itertools.product(range(tiles.chains), range(links))]
    assert sorted((tile.b, tile.h, tile.start) for tile in found) == every


def test_with_more_threads_than_tiles_of_a_head_the_last_tickets_are_of_short_tiles(replay: Any) -> None:
    """Three heads of eight tiles: with nine threads 4, 2, 1 and 1 of each, the longest first."""
    causal, full = (AttentionProblem.of(128, num_heads=3, causal=causal) for causal in (True, False))
    rounds = ([8, 7, 6, 5], [4, 3], [2], [1])
    in_rounds = [(h, tile) for part in rounds for h in range(3) for tile in part]
    by_head = [(h, tile) for h in range(3) for tile in range(8, 0, -1)]
    for problem, threads, expected in ((causal, 9, in_rounds), (causal, 8, by_head), (full, 9, by_head)):
        tiles = replay.Tiles(problem, BLOCKS, threads)
        assert [(tile.h, tile.start // 16 + 1) for tile in tiles.each()] == expected


@given(shape=SHAPES, threads=THREADS)
def test_a_time_is_between_that_of_the_longest_thread_and_of_one(
    replay: Any, shape: dict[str, Any], threads: int
) -> None:
    tiles = tiles_of(replay, shape, threads)
    total, longest = sum(map(keys_of, tiles.each())), max(map(keys_of, tiles.each()))
    for simulate in (replay.forward_time, replay.backward_time):
        assert simulate(tiles, keys_of, [0.0]) == pytest.approx(total)
        assert max(longest, total / threads) - 1e-6 <= simulate(tiles, keys_of, [0.0] * threads)
        assert simulate(tiles, keys_of, [0.0] * threads) <= total + 1e-6
    # List scheduling: at worst a thread begins the longest tile when all others are done (Graham 1966).
    bound = total / threads + (1 - 1 / threads) * longest
    assert replay.forward_time(tiles, keys_of, [0.0] * threads) <= bound + 1e-6


def test_a_thread_that_starts_after_the_last_tile_delays_nothing(replay: Any) -> None:
    tiles = replay.Tiles(AttentionProblem.of(64), BLOCKS, 2)
    for simulate in (replay.forward_time, replay.backward_time):
        assert simulate(tiles, keys_of, [0.0, 1e9]) == simulate(tiles, keys_of, [0.0])


def test_threads_of_a_chain_follow_each_other_like_a_wave(replay: Any) -> None:
    """Two tiles of queries, four tiles of keys: the second waits once, for dk and dv of the first keys."""
    tiles = replay.Tiles(AttentionProblem.of(32, seqlen_k=128), BLOCKS, 2)
    assert replay.backward_time(tiles, lambda tile: 24.0, [0.0, 0.0]) == pytest.approx(
        24 + 6 * replay.GUARDED
    )


def test_a_task_with_fewer_keys_does_not_wait_for_those_of_others(replay: Any) -> None:
    """Causal, two threads, tiles of 2 and 1 steps: the time is that of the longer one."""
    tiles = replay.Tiles(AttentionProblem.of(32, causal=True), Blocks(16, 16), 2)
    assert replay.backward_time(tiles, keys_of, [0.0, 0.0]) == pytest.approx(32.0)


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_efficiency_with_enough_tiles_is_above_85_percent_at_64_threads(replay: Any, heads: int) -> None:
    """Four tiles a thread or more, each as long as its keys."""
    for causal, simulate in itertools.product((False, True), (replay.forward_time, replay.backward_time)):
        problem = AttentionProblem.of(64 * 64 * 4 // heads, num_heads=heads, causal=causal)
        one, many = (
            simulate(replay.Tiles(problem, Blocks(64, 64), threads), keys_of, [0.0] * threads)
            for threads in (1, 64)
        )
        assert one / many / 64 > 0.85


@pytest.mark.parametrize("group", [1, 3])
def test_tasks_that_finish_before_an_earlier_one_add_in_its_order(group: int) -> None:
    """Causal tasks get shorter, so with many threads later ones finish first. The bits are those of one."""
    problem = AttentionProblem.of(403, num_heads=3, num_kv_heads=3 // group, causal=True, dtype="float32")
    q, k, v, do = problem.make_inputs()
    engine = get_engine("flash")
    found = []
    for threads in (1, *[16] * 20):
        settings = Settings(block_q=16, block_k=16, num_threads=threads)
        forward = engine.forward(problem, settings, q, k, v, keep=True)
        found.append(engine.backward(problem, settings, do, q, k, v, forward))
    for gradients in found[1:]:
        for name in ("dq", "dk", "dv"):
            assert np.array_equal(getattr(gradients, name), getattr(found[0], name)), name
    assert math.isfinite(float(np.abs(found[0].dk).max()))
