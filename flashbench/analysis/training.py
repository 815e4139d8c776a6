"""The longest context whose training step fits into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.integrations.forecasting.models import most_context
from flashbench.results.record import TrainingStep

Vector = NDArray[np.float64]

# Weight, gradient and Adam's two moments, in float32.
BYTES_A_PARAMETER = 16
_SMALL = 0.1  # share of the peak at the longest length; measured parts of this kind were up to 0.07


class LongestContext(NamedTuple):
    """The longest context of one model and attention, and the lengths whose peaks it is computed from."""

    model: str
    attention: str
    length: int
    measured: list[int]


def longest_context(rows: Sequence[TrainingStep], budget_bytes: int) -> LongestContext | None:
    """The longest context whose step fits beside weights, gradients, Adam's moments and the model's buffers.

    It is computed from peaks measured at two or more lengths. None with fewer lengths, or if most of a step's
    memory does not depend on the context. rows: of one model and attention.
    """
    known = sorted(
        (row.context_length, row.peak_bytes, row.buffer_bytes or 0)
        for row in rows
        if row.peak_bytes is not None
    )
    if len(known) < 2:
        return None
    lengths, peaks, buffers = np.array(known, dtype=float).T
    growth = _growth(lengths, peaks)
    if growth[0] > peaks[-1] / 2 or not growth[1:].any():
        return None
    a, b, c = growth + _polynomial(lengths, buffers, _powers(lengths))
    kept = max(BYTES_A_PARAMETER * (row.parameters or 0) for row in rows)
    room = max(0.0, budget_bytes - kept - a)
    # Not (-b + root) / 2c, which loses every digit if c is nearly 0.
    length = int(2 * room / (b + np.sqrt(b * b + 4 * c * room))) if room else 0
    first, most = rows[0], most_context(rows[0].model)
    length = (
        length if most is None else min(length, most)
    )  # a limit of the model, however much memory there is
    return LongestContext(first.model, first.attention, length, [int(n) for n in lengths])


def _growth(lengths: Vector, peaks: Vector) -> Vector:
    """a, b and c of peak = a + b n + c n^2.

    A quadratic part that is small at the longest measured length is left out. If scores are kept, it is most
    of the peak there. If not, it comes from temporary objects at the peak, and at a hundred times the length
    it would dominate wrongly.
    """
    powers = _powers(lengths)
    growth = _polynomial(lengths, peaks, powers)
    if growth[2] * lengths[-1] ** 2 < _SMALL * peaks[-1]:
        return _polynomial(lengths, peaks, powers[:-1])
    return growth


def _powers(lengths: Vector) -> list[int]:
    """The powers that this number of lengths can separate."""
    return [0, 1, 2] if len(lengths) > 2 else [1, 2]


def _polynomial(lengths: Vector, sizes: Vector, powers: list[int]) -> Vector:
    """Coefficients a, b and c by least squares, none below 0; those of other powers are 0."""
    from scipy.optimize import nnls

    equations = lengths[:, np.newaxis] ** powers
    # Scale the columns to one size: the solver stops at an absolute tolerance.
    norms, most = np.linalg.norm(equations, axis=0), max(sizes.max(), 1.0)
    found = np.zeros(3)
    found[powers] = nnls(equations / norms, sizes / most)[0] / norms * most
    return found
