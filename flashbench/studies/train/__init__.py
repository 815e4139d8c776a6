"""Training steps of forecasting transformers, end to end, with one attention after the other.

Every arm (an attention) is a process of its own. Rounds start fresh processes, in which the arms take turns
on each model and context length; all begin from the same seed and see the same windows of the same data, with
dropout 0, so their losses must agree. Memory is measured before, in processes that are not timed.
"""

from __future__ import annotations

from flashbench.studies.train.run import failed, run
from flashbench.studies.train.study import Setting, TrainStudy

__all__ = ["Setting", "TrainStudy", "failed", "run"]
