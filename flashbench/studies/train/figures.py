"""What follows from training steps: ratios, Amdahl's bound, and the longest context that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flashbench.results.record import TrainingStep

BASE = "standard"
# Weight, gradient and Adam's two moments, in float32.
BYTES_A_PARAMETER = 16


def measured_ratio(row: TrainingStep, base: TrainingStep | None) -> float | None:
    """How many times faster than the base a step is; None where one was not timed."""
    if base is None or row.time is None or base.time is None:
        return None
    return base.time.median_ns / row.time.median_ns


def attention_ns(row: TrainingStep) -> float | None:
    """Of a step, forward and backward."""
    if row.attention_forward_ns is None or row.attention_backward_ns is None:
        return None
    return row.attention_forward_ns + row.attention_backward_ns


def amdahl_bound(row: TrainingStep, base: TrainingStep | None) -> float | None:
    """1 / ((1 - f) + f / s): f is attention's share of the base's step, s how many times faster it is here.

    Amdahl 1967, "Validity of the single processor approach": what a faster part can do for the whole.
    """
    if base is None or base.attention_share is None:
        return None
    own, others = attention_ns(row), attention_ns(base)
    if own is None or others is None or own <= 0 or others <= 0:
        return None
    share, faster = base.attention_share, others / own
    return 1.0 / ((1.0 - share) + share / faster)


def base_of(row: TrainingStep, rows: Sequence[TrainingStep], attention: str = BASE) -> TrainingStep | None:
    """The step of the same model at the same length with that attention."""
    for other in rows:
        if other.attention == attention and same_place(row, other):
            return other
    return None


def same_place(row: TrainingStep, other: TrainingStep) -> bool:
    return (row.model, row.context_length) == (other.model, other.context_length)


class LongestContext(NamedTuple):
    """Of one model and attention: a length, and the lengths whose measured peaks it was computed from."""

    model: str
    attention: str
    length: int
    measured: list[int]


def longest_context(rows: Sequence[TrainingStep], budget_bytes: int) -> LongestContext | None:
    """The longest context whose step fits beside weights, gradients and Adam's two moments, computed.

    peak = a + b n + c n^2 with a, b, c >= 0 is fitted to the peaks measured at three lengths or more, and
    with a = 0 to those at two; None of fewer, or where they do not grow. rows: of one model and attention.
    """
    known = sorted((row.context_length, row.peak_bytes) for row in rows if row.peak_bytes is not None)
    if len(known) < 2:
        return None
    from scipy.optimize import nnls

    lengths = np.array([length for length, _ in known], dtype=float)
    peaks = np.array([peak for _, peak in known], dtype=float)
    # Relative errors count: each equation is divided by its peak.
    powers = (0, 1, 2) if len(known) > 2 else (1, 2)
    equations = np.stack([lengths**power for power in powers], axis=1) / peaks[:, np.newaxis]
    # To columns of one size, for the solver stops by an absolute tolerance.
    sizes = np.linalg.norm(equations, axis=0)
    *constant, b, c = nnls(equations / sizes, np.ones_like(peaks))[0] / sizes
    kept = max(BYTES_A_PARAMETER * (row.parameters or 0) for row in rows)
    room = max(0.0, budget_bytes - kept - sum(constant))
    if not b and not c:  # the peaks do not grow
        return None
    # Not (-b + root) / 2c, which loses every digit where c is all but 0.
    length = int(2 * room / (b + np.sqrt(b * b + 4 * c * room))) if room else 0
    first = rows[0]
    return LongestContext(first.model, first.attention, length, [int(n) for n in lengths])
