"""How large tiles are and what workspace they take: chosen before a call, known to the byte."""

from __future__ import annotations

import math
from typing import NamedTuple

from flashbench.kernels.dots import QUERIES
from flashbench.kernels.isa import HALF_RATE, ISA

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

# In float64, and at half rate in float32 too, a thread's workspace grows with the keys, by half the
# documented 64 bytes each (two threads share the documented figure), and stops where tiles no longer gain.
_BYTES_PER_KEY = 32
_MOST_FORWARD_BYTES = 40 * 1024
_OVERHEAD_BYTES = 384  # tickets, tables and alignment: a thread's share
# Numbers that a thread keeps for each lane of its tile, in this order.
_FORWARD_NUMBERS = 3  # row_max, row_sum, rescale
_BACKWARD_NUMBERS = 2  # lse2, delta
MOST_PARTS = 64  # of decoding, merged at once
LIMIT_NUMBERS = 2  # firsts, ends: where causality or a window hides something
ALIBI_NUMBERS = 2  # positions, slopes
# Measured at head_dim 32 to 256. At half rate (Zen 4) wider tiles of fewer keys are slower than narrow ones
# of many, as the products are near the peak from one vector on and what remains to be saved is the visits to
# o and to the running maximum. Elsewhere (Intel with AVX-512; with AVX2 too) the first product wants whole
# tiles of registers, and the scores a place in the first-level cache.
_NARROW_LANES, _NARROW_MOST_KEYS = 16, 512
_WIDE_BYTES, _WIDE_MOST_KEYS = 256, 64  # lanes: 64 in float32, 32 in float64
_NARROW_BACKWARD_KEY_BYTES = 256  # one vector group of keys: 64 in float32, 32 in float64

# Under this many floating-point operations a thread costs more to wake, some 100 us, than it saves; of few
# queries under fewer, which wait for memory.
_FLOPS_PER_THREAD = 20_000_000
_READING_FLOPS_PER_THREAD = 4_000_000


class Blocks(NamedTuple):
    """Queries and keys of one tile."""

    block_q: int
    block_k: int


# Of the first-level cache: lines of so many addresses have sets of their own, and so many of a set a place.
_SETS_BYTES, _WAYS = 4096, 8


def scattered(row_bytes: int, rows: int) -> bool:
    """Whether rows so far from each other push each other out of the first-level cache: those of one head of
    a (batch, seqlen, heads, head_dim) array fall into few of its sets.
    """
    return _SETS_BYTES // math.gcd(row_bytes, _SETS_BYTES) * _WAYS < rows


def padded_lanes(block_q: int, itemsize: int) -> int:
    """block_q rounded up to whole vectors."""
    vector = ISA.lanes(itemsize)
    return -(-block_q // vector) * vector


def useful_threads(flops: int, tiles: int, num_threads: int, *, reading: bool = False) -> int:
    """How many of the threads are worth waking; reading: for so few queries that memory decides."""
    least = _READING_FLOPS_PER_THREAD if reading else _FLOPS_PER_THREAD
    return max(1, min(num_threads, tiles, flops // least))


def feature_numbers(*, limited: bool, alibi: bool) -> int:
    """Numbers a lane that optional features need: up to the last one used, as their places are fixed."""
    return LIMIT_NUMBERS + ALIBI_NUMBERS if alibi else LIMIT_NUMBERS if limited else 0


def forward_elements(block_q: int, block_k: int, head_dim: int, itemsize: int, numbers: int = 0) -> int:
    """Scratch of one thread of the forward pass: qt, s, three numbers and `numbers` more a lane."""
    return (head_dim + block_k + _FORWARD_NUMBERS + numbers) * padded_lanes(block_q, itemsize)


def backward_elements(
    block_q: int,
    block_k: int,
    head_dim: int,
    head_dim_v: int,
    itemsize: int,
    numbers: int = 0,
    *,
    softcap: bool = False,
) -> int:
    """Scratch of one thread of the backward pass: qt, dot, p, ds, lse2, delta and `numbers` more a lane.

    With softcap also the tile of its derivatives, behind all that features may need.
    """
    if softcap:
        numbers = LIMIT_NUMBERS + ALIBI_NUMBERS + block_k
    rows = head_dim + head_dim_v + 2 * block_k + _BACKWARD_NUMBERS + numbers
    return rows * padded_lanes(block_q, itemsize)


def decode_elements(rows: int, block_k: int, head_dim: int, itemsize: int) -> int:
    """Scratch of one thread of decoding: qt, s, row_max, row_sum, rescale, and what features need."""
    numbers = _FORWARD_NUMBERS + LIMIT_NUMBERS + ALIBI_NUMBERS
    lanes = padded_lanes(-(-rows // QUERIES) * QUERIES, itemsize)
    return (2 * head_dim + block_k + numbers) * lanes + MOST_PARTS


def forward_blocks(
    seqlen_q: int,
    seqlen_k: int,
    head_dim: int,
    itemsize: int,
    flops: int,
    window: int | None = None,
    *,
    half_rate: bool = HALF_RATE,
) -> Blocks:
    """Tiles for the forward pass: at half rate narrow in queries, with as many keys as the workspace allows,
    elsewhere as wide as it allows.

    window: keys that a query sees at most. Tiles depend on the problem alone, not on the number of threads,
    and so do the bits of the result.
    """
    lanes, most_keys = _NARROW_LANES, _NARROW_MOST_KEYS
    if not half_rate:
        lanes, most_keys = _WIDE_BYTES // itemsize, _WIDE_MOST_KEYS
    vector = ISA.lanes(itemsize)
    lanes = max(vector, lanes)
    share = _MOST_FORWARD_BYTES
    if half_rate or itemsize == 8:  # what the document gives figures of
        threads = 1 if flops < 2 * _FLOPS_PER_THREAD else 2  # that share the documented figure
        share = min(share, 2 * _BYTES_PER_KEY * seqlen_k // threads - _OVERHEAD_BYTES)
    # A larger head_dim makes the packed queries larger, not the scores smaller.
    wider = max(0, head_dim - 64)
    while True:
        limit = share + wider * lanes * itemsize
        keys = limit // (lanes * itemsize) - head_dim - _FORWARD_NUMBERS
        if keys >= 48 or lanes // 2 < vector:
            break
        lanes //= 2
    lanes = min(lanes, padded_lanes(seqlen_q, itemsize))
    keys = max(8, min(keys, most_keys))
    return within_window(Blocks(min(lanes, seqlen_q), keys), seqlen_k, window)


def backward_blocks(
    seqlen_q: int,
    seqlen_k: int,
    head_dim: int,
    itemsize: int,
    window: int | None = None,
    *,
    half_rate: bool = HALF_RATE,
) -> Blocks:
    """Tiles for the backward pass: every task passes over k, v, dk and dv, so the larger these are, the
    more queries a task should serve.
    """
    if half_rate:
        lanes = _narrow_backward_lanes(seqlen_k, head_dim, itemsize)
        keys = _NARROW_BACKWARD_KEY_BYTES // itemsize
    else:
        lanes = 32 if seqlen_k < 256 else 48 if seqlen_k < 1024 else 64
        keys = _WIDE_MOST_KEYS
    lanes = max(ISA.lanes(itemsize), lanes)
    return within_window(Blocks(min(lanes, seqlen_q), keys), seqlen_k, window)


def _narrow_backward_lanes(seqlen_k: int, head_dim: int, itemsize: int) -> int:
    if seqlen_k <= 256:
        return 16
    if head_dim * itemsize >= 1024:
        return 64
    return 48 if seqlen_k >= 2048 and itemsize == 4 else 32


def within_window(blocks: Blocks, seqlen_k: int, window: int | None) -> Blocks:
    """The blocks with as many keys as divide what a tile of queries sees evenly, at most those they had."""
    span = seqlen_k if window is None else min(seqlen_k, window + blocks.block_q - 1)
    return blocks._replace(block_k=_even_share(span, blocks.block_k))


def _even_share(seqlen_k: int, most: int) -> int:
    """At most `most` keys, such that the last block of keys is not much shorter than the others."""
    blocks = -(-seqlen_k // most)
    return min(most, -(-seqlen_k // (8 * blocks)) * 8, seqlen_k)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
