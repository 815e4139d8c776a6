"""Checks step by step that the losses of a model's arms agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flashbench.studies.train.study import TrainDtype


class Tolerances(NamedTuple):
    """The largest difference of losses, relative to the loss: before any update, and after some."""

    first: float
    later: float


# Relative to the loss. Before any update, arms differ by float32's rounding through some layers. The size of
# Adam's first updates is the learning rate, for any size of the gradient. If a gradient is only rounding
# error, its update may have either sign, so later losses may differ more.
# In bfloat16 each activation is rounded to 2**-8 of itself, and the average of many is the loss.
TOLERANCES: Mapping[TrainDtype, Tolerances] = {
    "float32": Tolerances(1e-5, 1e-3),
    "bfloat16": Tolerances(2e-2, 5e-2),
}


def disagreement(
    losses: Sequence[float], reference: Sequence[float], dtype: TrainDtype = "float32"
) -> str | None:
    """One line on the first loss that differs from the reference arm's; None if all agree.

    >>> disagreement([1.0, 0.9], [1.0, 0.9002]) is None, disagreement([1.0, 0.9], [1.0, 0.8])
    (True, 'loss 0.9 after 1 step, 0.8 in the arm it is compared with: more than 0.001 apart')
    """
    for steps, (loss, other) in enumerate(zip(losses, reference, strict=False)):
        tolerance = TOLERANCES[dtype].first if steps == 0 else TOLERANCES[dtype].later
        if not abs(loss - other) <= tolerance * max(abs(other), 1e-12):
            after = "before any step" if steps == 0 else f"after {steps} step{'s' if steps > 1 else ''}"
            return (
                f"loss {loss:.6g} {after}, {other:.6g} in the arm it is compared with: "
                f"more than {tolerance:g} apart"
            )
    return None
