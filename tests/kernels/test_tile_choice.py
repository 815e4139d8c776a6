"""Automatic tiles: within the documented workspace, sensible for any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.engines import Settings
from flashbench.engines.flash import FlashEngine
from flashbench.kernels.blocks import backward_blocks, forward_blocks
from flashbench.problem import AttentionProblem

DOCUMENTED_KIB = {128: 8, 512: 32, 1024: 64, 2048: 128, 4096: 256}
TWO_THREADS = Settings(num_threads=2)


def workspace(seqlen, batch=1):
    return FlashEngine().workspace_bytes(AttentionProblem.of(seqlen, batch=batch), "fwd", TWO_THREADS)


@pytest.mark.parametrize("seqlen", DOCUMENTED_KIB)
def test_workspace_stays_within_the_documented_figure(seqlen):
    assert workspace(seqlen) <= DOCUMENTED_KIB[seqlen] * 1024


@pytest.mark.parametrize(("seqlen", "savings"), [(4096, 1000), (8192, 5000)])
def test_long_sequences_save_a_thousand_times_and_more(seqlen, savings):
    assert 8 * seqlen**2 / workspace(seqlen) >= savings


@pytest.mark.parametrize("seqlen", [512, 1024, 2048, 4096, 8192])
def test_workspace_does_not_grow_with_the_batch(seqlen):
    # But for where each sequence lies, and whether its v is finite: eight numbers.
    assert workspace(seqlen, batch=8) <= workspace(seqlen) + 7 * 8 * 8


@given(
    seqlen_q=st.integers(1, 10_000),
    seqlen_k=st.integers(1, 10_000),
    head_dim=st.integers(1, 256),
    itemsize=st.sampled_from([4, 8]),
    flops=st.integers(1, 10**12),
)
def test_blocks_fit_any_problem(seqlen_q, seqlen_k, head_dim, itemsize, flops):
    for block_q, block_k in (
        forward_blocks(seqlen_q, seqlen_k, head_dim, itemsize, flops),
        backward_blocks(seqlen_q, seqlen_k, head_dim, itemsize),
    ):
        assert 1 <= block_q <= seqlen_q
        assert 1 <= block_k <= seqlen_k
