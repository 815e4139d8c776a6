"""Measures whole training steps of forecasting transformers with each attention.

Each attention is an arm of the study, with its own process. A round starts fresh processes, and the arms take
turns on each model and context length. All arms start from the same seed and train on the same windows of the
same data with dropout 0, so their losses must agree. Memory is measured first, in processes that are not
timed.
"""

from __future__ import annotations

from flashbench.studies.train.run import run
from flashbench.studies.train.study import Setting, TrainStudy

__all__ = ["Setting", "TrainStudy", "run"]
