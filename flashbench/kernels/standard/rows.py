"""One row of scores in standard attention, between the products: features, softmax and its gradient."""

from __future__ import annotations

import math

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.call.features import sink_of, slope_of
from flashbench.kernels.call.masks import NO_MASK
from flashbench.kernels.maths.exp2 import LN2
from flashbench.kernels.row.dropout import RowDraws, drop_gradient_row, drop_row
from flashbench.kernels.row.features import alibi_row, softcap_row
from flashbench.kernels.row.masks import clear_masked, mask_scores, visible_range
from flashbench.kernels.row.softmax import gradient_row, mean_gradient, natural_softmax_row, softmax_row


@step
def softmax_of_row(call, row, s, tanh, dropped, lse):
    """Replace a row of scores s by p, and store its lse, the tanh of softcap, and p after dropout.

    tanh and dropped may be s itself if the backward pass does not need them.
    """
    features, columns = call.features, row.sequence.columns
    first, end = visible_range(row, features)
    visible = end - first
    if features.cap != 0:
        softcap_row(at(s, first), at(tanh, first), visible, call.stages.softcap)
    if features.alibi:
        slope = slope_of(features, row.b, row.h)
        alibi_row(at(s, first), visible, slope, row.i + row.sequence.diagonal - first)
    if features.mask != NO_MASK:
        mask_scores(s, row, features, first, end)

    if call.stages.natural:
        total = natural_softmax_row(s, columns, first, end, sink_of(features, row.h), lse)
        lse[0] = lse[0] + math.log(total)
    else:
        total = softmax_row(s, columns, first, end, lse)
        lse[0] = lse[0] * LN2 + math.log(total)

    if not total > 0 and features.mask != NO_MASK:
        clear_masked(s, row, features, first, end)
    if features.dropout:
        draws = RowDraws(row.i, row.h, row.b, features.seed, features.threshold)
        drop_row(s, dropped, columns, first, end, features.keep_factor, draws)


@step
def gradient_of_row(call, row, dp, p, dropped, lse, scale):
    """Replace a row of dp by scale * ds. Returns the row's share of the sink's gradient."""
    features = call.features
    first, end = visible_range(row, features)
    visible = end - first
    # dropped is 0 for a dropped pair, so dp of that pair does not change this sum.
    delta = mean_gradient(at(dp, first), at(dropped, first), visible)
    spoiled = features.mask != NO_MASK and not math.isfinite(delta)  # perhaps by a pair that the mask hides
    if spoiled:
        clear_masked(dp, row, features, first, end)
        delta = mean_gradient(at(dp, first), at(dropped, first), visible)
    if features.dropout:
        drop_gradient_row(at(dp, first), at(dropped, first), visible, features.keep_factor)
    gradient_row(dp, p, row.sequence.columns, first, end, delta, scale)
    if spoiled:
        clear_masked(dp, row, features, first, end)
    if not features.sinks or lse[0] == -math.inf:
        return 0.0
    return -math.exp(sink_of(features, row.h) - lse[0]) * delta
