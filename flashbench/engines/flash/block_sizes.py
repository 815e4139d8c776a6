"""The rule for block sizes: how many queries and keys a tile has."""

from __future__ import annotations

from typing import Literal, NamedTuple

from flashbench.codegen.isa import HALF_RATE, ISA
from flashbench.engines.launch import FLOPS_PER_THREAD
from flashbench.kernels.flash.scratch import STATE_ROWS, WHOLE, padded_lanes

# In float64, and at half rate also in float32, the workspace of a thread grows with the keys. It is 32 bytes
# per key of each head: half the documented 64, because two threads share the documented figure. It stops
# growing at 40 KiB a head, and where larger tiles are no longer faster.
_BYTES_PER_KEY = 32
_MOST_BYTES_PER_HEAD = 40 * 1024
_OVERHEAD_BYTES = 456  # tickets, tables and alignment, per thread
# Measured at head_dim 32 to 256. At half rate (Zen 4) narrow tiles of many keys are faster than wide tiles of
# few keys: one vector of queries is enough for products near the peak, and more keys per tile mean fewer
# visits to o and row_max. On other CPUs (Intel with AVX-512, also with AVX2) the first product needs whole
# register tiles, and the scores must fit the first-level cache in float32. In float64 wide tiles are worth
# more: k and v of 2,048 keys fill a second-level cache, and each tile of queries reads them all.
_NARROW_LANES, _NARROW_MOST_KEYS = 16, 512
_WIDE_LANES, _WIDE_MOST_KEYS, _WIDE_MOST_BYTES = 64, 64, 66 * 1024
_NARROW_BACKWARD_KEY_BYTES = 256  # one vector group of keys: 64 in float32, 32 in float64


# 16-bit floats, measured at head_dim 64 and 128. A tile of keys is widened, or laid out, for each tile of
# queries that reads it, so these are wide. On tile registers sums go through memory once per tile of keys, so
# that it is long. An operand in parts costs more to lay out.
_HALF_LANES, _HALF_KEYS = 128, 64
_EXACT_LANES, _EXACT_KEYS = {"fwd": 64, "bwd": 128}, {"fwd": 256, "bwd": 128}
_IN_PARTS = 128  # lanes and keys

Pass = Literal["fwd", "bwd"]


class Blocks(NamedTuple):
    """Queries and keys of one tile."""

    block_q: int
    block_k: int


def forward_blocks(
    seqlen_q: int,
    seqlen_k: int,
    head_dim: int,
    itemsize: int,
    flops: int,
    window: int | None = None,
    *,
    heads: int = 1,
    half_rate: bool = HALF_RATE,
) -> Blocks:
    """Block sizes of the forward pass.

    At half rate: few queries, and as many keys as the workspace allows. Elsewhere: as many queries as it
    allows. window: the most keys that a query attends to. flops: of the forward pass. heads: of all sequences
    of the batch. Block sizes depend on the problem only, not on the number of threads, so the bits of the
    result do too.
    """
    lanes, most_keys = _WIDE_LANES, _WIDE_MOST_KEYS
    if half_rate:
        lanes, most_keys = _NARROW_LANES, _NARROW_MOST_KEYS
        heads = 1  # more keys for more heads are not measured
    share = min(_WIDE_MOST_BYTES, _MOST_BYTES_PER_HEAD * heads)
    vector = ISA.lanes(itemsize)
    lanes = max(vector, lanes)
    if half_rate or itemsize == 8:  # the documented workspace figures are for these cases
        threads = 1 if flops < 2 * FLOPS_PER_THREAD else 2  # they share the documented figure
        share = min(share, 2 * _BYTES_PER_KEY * seqlen_k * heads // threads - _OVERHEAD_BYTES)
    # A larger head_dim enlarges the packed queries; it must not shrink the tile of scores.
    wider = max(0, head_dim - 64)
    while True:
        limit = share + wider * lanes * itemsize
        keys = limit // (lanes * itemsize) - head_dim - STATE_ROWS
        if keys >= 48 or lanes // 2 < vector:
            break
        lanes //= 2
    lanes = min(lanes, padded_lanes(seqlen_q, itemsize))
    keys = max(8, min(keys, most_keys))
    return within_window(Blocks(min(lanes, seqlen_q), keys), seqlen_k, window)


def half_blocks(
    direction: Pass, seqlen_q: int, seqlen_k: int, window: int | None = None, *, exact: bool, parts: int
) -> Blocks:
    """Block sizes of 16-bit floats.

    exact: products of 16-bit operands, not of widened ones. parts: 16-bit numbers per number of an operand.
    """
    lanes = _EXACT_LANES[direction] if exact else _HALF_LANES
    keys = _EXACT_KEYS[direction] if exact else _HALF_KEYS
    if parts >= 2:
        lanes = keys = _IN_PARTS
    return within_window(Blocks(min(lanes, seqlen_q), keys), seqlen_k, window, WHOLE)


def backward_blocks(
    seqlen_q: int,
    seqlen_k: int,
    head_dim: int,
    itemsize: int,
    window: int | None = None,
    *,
    half_rate: bool = HALF_RATE,
) -> Blocks:
    """Block sizes of the backward pass.

    Every task passes over k, v, dk and dv. So the larger these are, the more queries a task should have.
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


def within_window(blocks: Blocks, seqlen_k: int, window: int | None, unit: int = 8) -> Blocks:
    """Reduce block_k so that it divides the visible keys of a tile of queries evenly, in whole units."""
    span = seqlen_k if window is None else min(seqlen_k, window + blocks.block_q - 1)
    return blocks._replace(block_k=_even_share(span, blocks.block_k, unit))


def _even_share(seqlen_k: int, most: int, unit: int) -> int:
    """A block_k of at most `most`, such that the last block is not much shorter than the others."""
    blocks = -(-seqlen_k // most)
    return min(most, -(-seqlen_k // (unit * blocks)) * unit, seqlen_k)
