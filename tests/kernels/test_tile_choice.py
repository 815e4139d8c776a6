"""Automatic tiles keep to the documented workspace, and are sensible for any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.engines import Settings
from flashbench.engines.flash.block_sizes import backward_blocks, forward_blocks
from flashbench.engines.flash.engine import FlashEngine
from flashbench.engines.flash.plan import built_in_blocks
from flashbench.problem import AttentionProblem

DOCUMENTED_KIB = {128: 8, 512: 32, 1024: 64, 2048: 128, 4096: 256}
TWO_THREADS = Settings(num_threads=2)


@pytest.fixture(params=[False, True], ids=["full-rate", "half-rate"], autouse=True)
def half_rate(request, monkeypatch):
    """The rule for both kinds of CPU, on any machine."""
    for rule in (forward_blocks, backward_blocks):
        monkeypatch.setitem(rule.__kwdefaults__, "half_rate", request.param)
    built_in_blocks.cache_clear()
    yield
    built_in_blocks.cache_clear()


def workspace(seqlen, batch=1):
    return FlashEngine().workspace_bytes(AttentionProblem.of(seqlen, batch=batch), "fwd", TWO_THREADS)


@pytest.mark.parametrize("seqlen", DOCUMENTED_KIB)
def test_workspace_stays_within_the_documented_figure(seqlen):
    assert workspace(seqlen) <= DOCUMENTED_KIB[seqlen] * 1024


@pytest.mark.parametrize(("seqlen", "savings"), [(4096, 1000), (8192, 5000)])
def test_long_sequences_save_a_thousand_times_and_more(seqlen, savings):
    assert 8 * seqlen**2 / workspace(seqlen) >= savings


@pytest.mark.parametrize("seqlen", [128, 512, 1024, 2048, 4096, 8192])
def test_workspace_of_more_heads_stays_within_the_documented_figure_of_each_and_two_large_tiles(seqlen):
    # The tables have eight numbers for each sequence: its place, and whether its v is finite.
    tables = 7 * 8 * 8
    assert workspace(seqlen, batch=8) <= min(8 * 64 * seqlen, 2 * 66 * 1024) + tables


@pytest.mark.parametrize("seqlen", [128, 512, 2048, 8192])
def test_in_float32_a_tile_of_a_usual_head_lies_in_the_first_level_cache(seqlen):
    problem = AttentionProblem.of(seqlen, num_heads=8, dtype="float32")
    # `amx_split` lays out k and v for all tiles.
    by_multiply_adds = TWO_THREADS._replace(path="fma")
    assert FlashEngine().workspace_bytes(problem, "fwd", by_multiply_adds) <= 2 * 40 * 1024


@given(
    seqlen_q=st.integers(1, 10_000),
    seqlen_k=st.integers(1, 10_000),
    head_dim=st.integers(1, 256),
    itemsize=st.sampled_from([4, 8]),
    flops=st.integers(1, 10**12),
    half_rate=st.booleans(),
)
def test_blocks_fit_any_problem(seqlen_q, seqlen_k, head_dim, itemsize, flops, half_rate):
    for block_q, block_k in (
        forward_blocks(seqlen_q, seqlen_k, head_dim, itemsize, flops, half_rate=half_rate),
        backward_blocks(seqlen_q, seqlen_k, head_dim, itemsize, half_rate=half_rate),
    ):
        assert 1 <= block_q <= seqlen_q
        assert 1 <= block_k <= seqlen_k
