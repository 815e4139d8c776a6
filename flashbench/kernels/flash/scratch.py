"""The scratch of one thread of the flash kernels."""

from __future__ import annotations

from flashbench.codegen.isa import ISA
from flashbench.kernels.maths.dots import QUERIES

# Numbers that a thread keeps for each lane of its tile, in this order.
FORWARD_NUMBERS = 3  # row_max, row_sum, rescale


BACKWARD_NUMBERS = 2  # lse2, delta


MOST_PARTS = 64  # of decoding, merged at once


LIMIT_NUMBERS = 2  # firsts, ends: where causality or a window hides something


ALIBI_NUMBERS = 2  # positions, slopes


def padded_lanes(block_q: int, itemsize: int) -> int:
    """block_q rounded up to whole vectors."""
    vector = ISA.lanes(itemsize)
    return -(-block_q // vector) * vector


def feature_numbers(*, limited: bool, alibi: bool) -> int:
    """Numbers a lane that optional features need: up to the last one used, as their places are fixed."""
    return LIMIT_NUMBERS + ALIBI_NUMBERS if alibi else LIMIT_NUMBERS if limited else 0


def forward_elements(block_q: int, block_k: int, head_dim: int, itemsize: int, numbers: int = 0) -> int:
    """Scratch of one thread of the forward pass: qt, s, three numbers and `numbers` more a lane."""
    return (head_dim + block_k + FORWARD_NUMBERS + numbers) * padded_lanes(block_q, itemsize)


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
    rows = head_dim + head_dim_v + 2 * block_k + BACKWARD_NUMBERS + numbers
    return rows * padded_lanes(block_q, itemsize)


def decode_elements(rows: int, block_k: int, head_dim: int, itemsize: int) -> int:
    """Scratch of one thread of decoding: qt, s, row_max, row_sum, rescale, and what features need."""
    numbers = FORWARD_NUMBERS + LIMIT_NUMBERS + ALIBI_NUMBERS
    lanes = padded_lanes(-(-rows // QUERIES) * QUERIES, itemsize)
    return (2 * head_dim + block_k + numbers) * lanes + MOST_PARTS
