"""How large tiles are and what workspace they take: chosen before a call, known to the byte."""

from __future__ import annotations

from typing import NamedTuple

from flashbench.kernels.isa import ISA

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

# A thread's workspace grows with the keys, by half the documented 64 bytes each (two threads share
# the documented figure), and stops where tiles no longer gain: measured on Zen 4 at head_dim 64, wider
# tiles of fewer keys are slower than narrow ones of many, as the products are near the peak from one
# vector on and what remains to be saved is the visits to o and to the running maximum.
_BYTES_PER_KEY = 32
_MOST_FORWARD_BYTES = 40 * 1024
_OVERHEAD_BYTES = 384  # tickets, the table of arrays and alignment: a thread's share
_FORWARD_LANES = 16
_MOST_KEYS = 512
_BACKWARD_LANES = 32
_BACKWARD_KEY_BYTES = 256  # one vector group of keys: 64 in float32, 32 in float64

# Under this many floating-point operations a thread costs more to wake than it saves.
_FLOPS_PER_THREAD = 4_000_000


class Blocks(NamedTuple):
    """Queries and keys of one tile."""

    block_q: int
    block_k: int


def padded_lanes(block_q: int, itemsize: int) -> int:
    """block_q rounded up to whole vectors."""
    vector = ISA.lanes(itemsize)
    return -(-block_q // vector) * vector


def useful_threads(flops: int, tiles: int, num_threads: int) -> int:
    """How many of the threads are worth waking."""
    return max(1, min(num_threads, tiles, flops // _FLOPS_PER_THREAD))


def forward_elements(block_q: int, block_k: int, head_dim: int, itemsize: int) -> int:
    """Scratch of one thread of the forward pass: qt, s, row_max, row_sum and rescale."""
    return (head_dim + block_k + 3) * padded_lanes(block_q, itemsize)


def backward_elements(block_q: int, block_k: int, head_dim: int, head_dim_v: int, itemsize: int) -> int:
    """Scratch of one thread of the backward pass: qt, dot, p, ds, lse2 and delta."""
    return (head_dim + head_dim_v + 2 * block_k + 2) * padded_lanes(block_q, itemsize)


def forward_blocks(seqlen_q: int, seqlen_k: int, head_dim: int, itemsize: int, flops: int) -> Blocks:
    """Tiles for the forward pass: narrow in queries, as many keys as the workspace allows.

    They depend on the problem alone, not on the number of threads, and so do the bits of the result.
    """
    threads = 1 if flops < 2 * _FLOPS_PER_THREAD else 2  # that share the documented figure
    share = 2 * _BYTES_PER_KEY * seqlen_k // threads - _OVERHEAD_BYTES
    # A larger head_dim makes the packed queries larger, not the scores smaller.
    wider = max(0, head_dim - 64)
    vector = ISA.lanes(itemsize)
    lanes = max(vector, _FORWARD_LANES)
    while True:
        limit = min(share, _MOST_FORWARD_BYTES) + wider * lanes * itemsize
        keys = limit // (lanes * itemsize) - head_dim - 3
        if keys >= 48 or lanes // 2 < vector:
            break
        lanes //= 2
    lanes = min(lanes, padded_lanes(seqlen_q, itemsize))
    return Blocks(min(lanes, seqlen_q), _even_share(seqlen_k, max(8, min(keys, _MOST_KEYS))))


def backward_blocks(seqlen_q: int, seqlen_k: int, head_dim: int, itemsize: int) -> Blocks:
    """Tiles for the backward pass: every task passes over k, v, dk and dv, so the larger these are, the
    more queries a task should serve.
    """
    lanes = _BACKWARD_LANES
    if seqlen_k <= 256:
        lanes //= 2
    elif head_dim * itemsize >= 1024:
        lanes *= 2
    elif seqlen_k >= 2048 and itemsize == 4:
        lanes += lanes // 2
    lanes = max(ISA.lanes(itemsize), lanes)
    return Blocks(min(lanes, seqlen_q), _even_share(seqlen_k, _BACKWARD_KEY_BYTES // itemsize))


def _even_share(seqlen_k: int, most: int) -> int:
    """At most `most` keys, such that the last block of keys is not much shorter than the others."""
    blocks = -(-seqlen_k // most)
    return min(most, -(-seqlen_k // (8 * blocks)) * 8, seqlen_k)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
