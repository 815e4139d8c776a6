"""Plans: chunks that are chosen, figures that follow from each other, and what is said about them."""

from __future__ import annotations

import pytest
from helpers.plans import BOTH, NETWORK, plan_of
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flashbench.errors import ConfigError
from flashbench.problem import AttentionProblem
from flashbench.studies.plan.plan import Chunks, host_memory, usual_chunks

GIB = 2**30
PROBLEM = AttentionProblem.of(2**20, num_heads=32, dtype="float32")


def test_a_host_has_two_chunks_of_queries_and_few_keys_are_in_flight() -> None:
    chunks = usual_chunks(PROBLEM, 16)
    assert chunks == Chunks(2**15, 2**13)
    longer = AttentionProblem.of(2**24)
    assert usual_chunks(longer, 16) == Chunks(2**19, 2**15)
    assert usual_chunks(longer, 16, in_flight=4) == Chunks(2**19, 2**18)
    assert usual_chunks(longer, 16).keys * (16 + 1) <= 2**20


def test_given_chunks_are_taken() -> None:
    assert usual_chunks(PROBLEM, 16, chunk=1000, key_chunk=300) == Chunks(1000, 300)
    assert usual_chunks(PROBLEM, 16, chunk=1000) == Chunks(1000, 1000)
    assert usual_chunks(PROBLEM, 16, key_chunk=300) == Chunks(2**15, 300)
    assert usual_chunks(PROBLEM, 16, chunk=2**30, key_chunk=2**30) == Chunks(2**20, 2**20)


@given(gib=st.integers(1, 6))
def test_a_limit_of_memory_makes_chunks_smaller(gib: int) -> None:
    free, limited = (usual_chunks(PROBLEM, 16, memory_limit_bytes=limit) for limit in (None, gib * GIB))
    fit = [
        [host_memory(PROBLEM, 16, each, None, direction).total <= gib * GIB for direction in BOTH]
        for each in (free, limited)
    ]
    assert all(fit[1]) or limited == free
    if all(fit[0]):
        assert limited == free
    assert limited.queries <= free.queries
    assert limited.keys <= free.keys


def test_memory_that_is_never_enough_is_said() -> None:
    plan = plan_of(PROBLEM, hosts=2, memory=GIB)
    assert [each.fits for each in plan.passes] == [False, False]
    assert any(note.startswith("The memory of a host is not enough") for note in plan.notes)


@pytest.mark.parametrize(
    ("hosts", "rows", "message"),
    [
        (600, 2**20, "--hosts takes up to 512 with 1048576 tokens, not 600"),
        (20, 10, "--hosts takes up to 10 with 10 tokens, not 20"),
    ],
)
def test_too_many_hosts_are_refused(hosts: int, rows: int, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        usual_chunks(AttentionProblem.of(rows), hosts)
    assert str(error.value) == message


def test_transfers_hide_from_the_length_on_that_the_plan_says() -> None:
    """With so many tokens a host, and as many chunks, computing takes as long as moving."""
    slow = replace(NETWORK, link=1e6)
    first = plan_of(PROBLEM, hosts=4, network=slow, chunk=2**17, key_chunk=2**17)
    for number, each in enumerate(first.passes):
        tokens = each.hides_from
        assert tokens is not None
        assert each.hides == f"from {tokens:,} tokens a host on"
        for factor, more in ((0.5, False), (1.0, True), (2.0, True)):
            rows = round(4 * tokens * factor)
            chunk = -(-rows // 8)
            again = plan_of(
                replace(PROBLEM, seqlen_q=rows, seqlen_k=rows),
                hosts=4,
                network=slow,
                chunk=chunk,
                key_chunk=chunk,
            ).passes[number]
            assert (again.computing_s >= 0.999 * again.moving_s) == more


def test_one_chunk_of_queries_a_host_hides_nothing() -> None:
    plan = plan_of(PROBLEM, hosts=4, chunk=2**18, key_chunk=2**18)
    assert any(note.startswith("With one chunk of queries a host nothing hides") for note in plan.notes)
    assert plan.passes[0].hides.endswith(", if it had two chunks of queries or more")


def test_one_host_moves_nothing() -> None:
    for each in plan_of(PROBLEM, hosts=1).passes:
        assert (each.moved_bytes, each.moving_s, each.hides) == (0, 0.0, "nothing is moved")


def test_a_window_has_a_share_instead_of_a_length() -> None:
    plan = plan_of(replace(PROBLEM, causal=True, window_left=4096), hosts=16, chunk=2**14)
    for each in plan.passes:
        assert each.hides_from is None
        assert each.hides.startswith("with a window both grow with the tokens: moving takes ")
        assert each.hidden_pairs > each.pairs


def test_causal_work_is_shared_out_by_chunks_that_are_spread() -> None:
    full, causal = (plan_of(replace(PROBLEM, causal=causal), hosts=16) for causal in (False, True))
    one, other = full.passes[0], causal.passes[0]
    assert other.mean_computing_s == pytest.approx(one.mean_computing_s / 2, rel=0.03)
    assert other.computing_s > 1.05 * other.mean_computing_s
    assert any("causal hides more of the first chunks of queries" in note for note in causal.notes)
    assert not any("busiest" in note for note in full.notes)


def test_hosts_without_work_are_counted() -> None:
    plan = plan_of(PROBLEM, hosts=5, chunk=2**18)
    assert "1 of 5 hosts have no chunk of queries: give a smaller --chunk." in plan.notes


def test_a_slow_scheduler_decides_the_time() -> None:
    plan = plan_of(PROBLEM, hosts=16, network=replace(NETWORK, task_s=10.0))
    for each in plan.passes:
        assert each.seconds == each.scheduling_s == 10.0 * each.tasks
    assert "Dask's scheduler takes longer than the hosts compute: give larger chunks." in plan.notes


def test_merging_is_named_where_it_takes_long() -> None:
    short, long = (plan_of(PROBLEM, hosts=4, chunk=2**17, key_chunk=keys) for keys in (2**12, 2**17))
    assert any(note.startswith("Merging takes 55 % of computing") for note in short.notes)
    assert not any("Merging" in note for note in long.notes)


def test_lse_is_a_task_of_the_forward_only_for_a_backward() -> None:
    both, forward = plan_of(PROBLEM, hosts=4), plan_of(PROBLEM, hosts=4, directions=("fwd",))
    assert both.passes[0].tasks - forward.passes[0].tasks == both.chunks
