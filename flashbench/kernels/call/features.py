"""The ALiBi slope and the sink of a head, and the addresses of its mask entries."""

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
    """The sink of a head: a logit that joins the softmax of all its rows. -inf: no sink."""
    if not features.sinks:
        return features.zero - math.inf
    return at_bytes(features.sink_logits, h * features.sinks_head)[0] + 0.0


@step
def dense_entry(b, h, query, key, features):
    """The address of the dense mask's entry for one (query, key) pair."""
    place = query * features.mask_row + key * features.mask_key
    return features.mask_at + b * features.mask_batch + h * features.mask_head + place * features.mask_size


@step
def blocks_of_row(b, h, query, features):
    """(first, end): the range of a query's blocks in the block mask's lists `columns` and `parts`."""
    address = features.starts + b * features.mask_batch + h * features.mask_head
    starts = at(pointer(0, address), query // features.mask_block_q)
    return starts[0], starts[1]
