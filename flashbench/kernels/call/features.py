"""A head's slope and sink, and where the entries of its mask lie."""

from __future__ import annotations

import math

from flashbench.codegen.pointers import at, at_bytes, pointer
from flashbench.codegen.steps import step


@step
def slope_of(features, b, h):
    """ALiBi's slope of a head."""
    return at_bytes(features.slopes, b * features.slopes_batch + h * features.slopes_head)[0]


@step
def sink_of(features, h):
    """The logit that joins the softmax of a head's rows; -inf is none."""
    if not features.sinks:
        return features.zero - math.inf
    return at_bytes(features.sink_logits, h * features.sinks_head)[0] + 0.0


@step
def dense_entry(b, h, query, key, features):
    """The address of a dense mask's entry of a pair."""
    place = query * features.mask_row + key * features.mask_key
    return features.mask_at + b * features.mask_batch + h * features.mask_head + place * features.mask_size


@step
def blocks_of_row(b, h, query, features):
    """(first, end): the places of a query's row of blocks in a block mask's lists."""
    address = features.starts + b * features.mask_batch + h * features.mask_head
    starts = at(pointer(0, address), query // features.mask_block_q)
    return starts[0], starts[1]
