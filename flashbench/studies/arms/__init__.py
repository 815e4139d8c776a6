"""Whole models with one attention after the other: what `train` and `infer` have in common.

Each attention is an arm, with its own process. A round starts fresh processes, and the arms take turns at
each place: the same model and work. Memory is measured first, in processes that are not timed.
"""

from __future__ import annotations

from flashbench.studies.arms.row import ArmRow
from flashbench.studies.arms.run import run_arms
from flashbench.studies.arms.session import ArmSession, Workers

__all__ = ["ArmRow", "ArmSession", "Workers", "run_arms"]
