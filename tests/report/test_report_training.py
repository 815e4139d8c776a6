"""The section "Can Train?", of made-up figures."""

from __future__ import annotations

from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.problem import AttentionProblem
from flashbench.report.training import training_report
from flashbench.studies.memory_fit.fits import TrainingFit
from flashbench.studies.memory_fit.training import TrainingRow

GIB = 1024**3


def test_each_engine_says_what_it_needs_and_how_far_it_gets(snapshot: SnapshotAssertion) -> None:
    rows = [
        TrainingRow(
            AttentionProblem.of(seqlen, batch=8),
            {
                "standard": TrainingFit("standard", needed, needed <= GIB, 9_876),
                "flash": TrainingFit("flash", seqlen * 8 * 4096, True, 1_234_567),
                "torch-flash": None,
            },
        )
        for seqlen, needed in ((512, 32 * 1024**2), (8192, 8 * GIB))
    ]
    assert rendered(training_report(rows, GIB)) == snapshot
