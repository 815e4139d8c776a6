"""The keys of a run of `tune`, and the sizes that it may try."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.codegen.isa import ISA
from flashbench.dtypes import DTYPES
from flashbench.engines import Settings
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.engine import FlashEngine
from flashbench.engines.flash.plan import built_in_blocks
from flashbench.engines.flash.tuned import Key
from flashbench.errors import AttentionError, ConfigError
from flashbench.problem import AttentionProblem
from flashbench.studies.tune.candidates import allowed_bytes, candidates
from flashbench.studies.tune.plan import (
    Plan,
    head_counts,
    judged_lengths,
    longest_of,
    problem_of,
    search_problem,
    seqlen_from,
)

KEYS = st.builds(
    Key,
    dtype=st.sampled_from(["float64", "float32"]),
    head_dim=st.sampled_from([16, 40, 64, 128, 256]),
    causal=st.booleans(),
    direction=st.sampled_from(["fwd", "bwd"]),
    band=st.integers(6, 14),
)


def test_the_default_keys_are_both_dtypes_masks_and_directions_from_256_to_8191() -> None:
    keys = Plan(threads=2).keys()
    assert len(keys) == len(set(keys)) == 2 * 2 * 2 * 5
    assert {key.head_dim for key in keys} == {64}
    assert sorted({(seqlen_from(key), longest_of(key)) for key in keys}) == [
        (256, 511),
        (512, 1023),
        (1024, 2047),
        (2048, 4095),
        (4096, 8191),
    ]


def test_lengths_of_one_band_are_one_key() -> None:
    plan = Plan(
        threads=1, dtypes=["float64"], causal=[False], directions=["fwd"], seq_lens=[300, 511, 256, 512]
    )
    first, second = plan.keys()
    assert (first.band, second.band) == (9, 10)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"head_dims": [300]}, AttentionError),
        ({"seq_lens": [0]}, ConfigError),
        ({"seq_lens": []}, ConfigError),
        ({"threads": 0}, ConfigError),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Plan(**{"threads": 1} | fields)


@given(key=KEYS, threads=st.sampled_from([1, 2, 7, 64]))
def test_a_search_keeps_the_threads_busy_on_keys_of_the_middle_of_the_band(key: Key, threads: int) -> None:
    problem = search_problem(key, threads)
    assert seqlen_from(key) < problem.seqlen_k < longest_of(key)
    assert problem.num_heads * problem.seqlen_q >= 384 * threads
    assert (problem.dtype, problem.head_dim, problem.causal) == (key.dtype, key.head_dim, key.causal)


@given(key=KEYS, block_q=st.sampled_from([8, 16, 48, 96, 128]), threads=st.sampled_from([1, 2, 7, 64]))
def test_both_ends_of_the_band_are_judged_and_the_length_that_shares_out_worst(
    key: Key, block_q: int, threads: int
) -> None:
    lengths = judged_lengths(key, block_q, heads=1, threads=threads)
    assert lengths[0] == seqlen_from(key)
    assert lengths[-1] == longest_of(key)

    def idle(seqlen: int) -> int:
        tiles = -(-seqlen // block_q)
        return -tiles % threads

    band = range(seqlen_from(key), longest_of(key) + 1)
    shares = [idle(seqlen) / (-(-seqlen // block_q) + idle(seqlen)) for seqlen in band if seqlen >= block_q]
    if shares and max(shares) > 0 and len(lengths) == 3:
        tiles = lengths[1] // block_q
        assert idle(lengths[1]) / (tiles + idle(lengths[1])) >= max(shares) - 1 / tiles


def test_many_heads_are_judged_where_a_call_is_short() -> None:
    assert head_counts(Key("float32", 64, False, "fwd", 9), threads=2) == [1, 8]
    assert head_counts(Key("float64", 64, False, "bwd", 13), threads=2) == [1]
    assert head_counts(Key("float64", 64, False, "fwd", 9), threads=64) == [1, 128]


@given(
    key=KEYS,
    threads=st.sampled_from([1, 2, 4, 64]),
    fewer=st.integers(1, 64),
    heads=st.sampled_from([1, 2, 3, 8, 32]),
    data=st.data(),
)
def test_no_candidate_takes_more_memory_than_the_rule_or_the_documented_figure(
    key: Key, threads: int, fewer: int, heads: int, data: st.DataObject
) -> None:
    tried = candidates(key, threads)[1:]
    if not tried:
        return
    blocks = data.draw(st.sampled_from(tried))
    seqlen = data.draw(st.integers(seqlen_from(key), longest_of(key)))
    problem = problem_of(key, seqlen, heads=heads)
    for count in {threads, min(fewer, threads)}:
        needed = FlashEngine().workspace_bytes(problem, key.direction, Settings(*blocks, num_threads=count))
        assert needed is not None
        assert needed <= allowed_bytes(problem, key, count)


@given(key=KEYS, threads=st.sampled_from([1, 2, 64]))
def test_candidates_are_the_rule_first_and_then_whole_vectors(key: Key, threads: int) -> None:
    found = candidates(key, threads)
    assert found[0] == built_in_blocks(search_problem(key, threads), key.direction)
    assert len(found) == len(set(found))
    for block_q, block_k in found[1:]:
        assert block_q % ISA.lanes(DTYPES[key.dtype].itemsize) == 0
        assert block_q <= seqlen_from(key)
        assert 8 <= block_k <= min(1024, seqlen_from(key))


def test_the_allowance_is_the_documented_figure_where_the_rule_takes_less() -> None:
    key = Key("float64", 64, False, "fwd", 13)
    problem = AttentionProblem.of(4096)
    assert allowed_bytes(problem, key, threads=2) == 256 * 1024
    rule = built_in_blocks(problem, "fwd")
    built_in = FlashEngine().workspace_bytes(problem, "fwd", Settings(*rule, num_threads=64))
    assert allowed_bytes(problem, key, threads=64) == built_in
    assert isinstance(rule, Blocks)
