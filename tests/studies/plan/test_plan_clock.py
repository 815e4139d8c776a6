"""The replay, against what must hold for any layout."""

from __future__ import annotations

import math

import pytest
from helpers.plans import BOTH, NETWORK, layouts
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flashbench.problem import AttentionProblem, Direction
from flashbench.studies.plan.clock import HOPS, Network, replay
from flashbench.studies.plan.layout import Layout
from flashbench.studies.plan.rates import PassRate, flops_of, pair_seconds

RATE = PassRate(gflops=1e-3, merge_ns=100.0, seqlen=1)
FREE = Network(link=math.inf, latency_s=0.0, task_s=0.0)


@given(layout=layouts(), direction=st.sampled_from(BOTH))
def test_hosts_compute_every_pair_once_and_one_at_a_time(layout: Layout, direction: Direction) -> None:
    run = replay(layout, direction, RATE, NETWORK)
    by_host = [0.0] * layout.hosts
    for _, i, j, scores in layout.pairs:
        rows, keys = len(layout.places[i]), len(layout.key_places[j])
        by_host[layout.host_of(i)] += sum(pair_seconds(layout, direction, rows, keys, scores, RATE))
    computing = [sum(of_host) for of_host in zip(run.kernel, run.merging, strict=True)]
    assert computing == pytest.approx(by_host)
    assert run.seconds >= max(computing) * (1 - 1e-9)


@given(layout=layouts(), direction=st.sampled_from(BOTH))
def test_one_host_waits_for_nothing(layout: Layout, direction: Direction) -> None:
    alone = Layout(layout.problem, 1, layout.chunk, layout.key_chunk, layout.in_flight)
    run = replay(alone, direction, RATE, FREE)
    assert run.seconds == pytest.approx(run.kernel[0] + run.merging[0])


@given(layout=layouts(), direction=st.sampled_from(BOTH))
def test_everything_in_turn_takes_longest(layout: Layout, direction: Direction) -> None:
    run = replay(layout, direction, RATE, NETWORK)
    messages = (HOPS[direction] + 2) * NETWORK.latency_s * (len(layout.pairs) + 1)
    transfers = sum(layout.received(direction)) / NETWORK.link
    assert run.seconds <= sum(run.kernel) + sum(run.merging) + messages + transfers + 1e-9


def test_the_kernel_does_the_operations_of_the_problem() -> None:
    problem = AttentionProblem.of(100, num_heads=4, num_kv_heads=2, head_dim=8, head_dim_v=5, causal=True)
    for direction in BOTH:
        assert flops_of(problem, direction, problem.visible_pairs) == problem.flops(direction)


# Two hosts, a chunk of queries each, two chunks of keys; a pair computes for a second.
PAIR_S, MOVE_S = 1.0, 0.25
PROBLEM = AttentionProblem.of(20, dtype="float32")
LAYOUT = Layout(PROBLEM, 2, 10, 10)


def seconds(direction: Direction, network: Network, layout: Layout = LAYOUT) -> float:
    rate = PassRate(gflops=flops_of(PROBLEM, direction, 100) / PAIR_S / 1e9, merge_ns=0.0, seqlen=1)
    return replay(layout, direction, rate, network).seconds


def test_with_one_chunk_of_queries_a_host_the_next_transfer_waits_for_the_pair_before() -> None:
    link = 10 * LAYOUT.kv_bytes / MOVE_S
    # Chunk 0 of keys is loaded on host 0, chunk 1 on host 1: each host receives one.
    assert seconds("fwd", replace(FREE, link=link)) == pytest.approx(2 * PAIR_S + MOVE_S)
    assert seconds("fwd", FREE) == 2 * PAIR_S


def test_with_two_chunks_of_queries_a_host_transfers_hide() -> None:
    problem = AttentionProblem.of(40, dtype="float32")
    layout = Layout(problem, 2, 10, 10)
    link = 10 * layout.kv_bytes / MOVE_S
    # Only what the first pair of host 1 waits for does not hide.
    assert seconds("fwd", replace(FREE, link=link), layout) == pytest.approx(8 * PAIR_S + MOVE_S)


def test_backward_sums_pass_from_host_to_host() -> None:
    # Host 1 begins when host 0 is done with its first pair and the sums have come, then each does one more.
    link = 10 * LAYOUT.sum_bytes / MOVE_S
    assert seconds("bwd", FREE) == 3 * PAIR_S
    found = seconds("bwd", replace(FREE, link=link))
    assert found == pytest.approx(3 * PAIR_S + 3 * MOVE_S)


def test_messages_stand_between_pairs_that_need_each_other() -> None:
    # A load, its pair, the next pair.
    assert seconds("fwd", replace(FREE, latency_s=0.1)) == pytest.approx(2 * PAIR_S + 0.2)
