"""Annotations on GitHub's page: what is slower, failed or undecided in a comparison or a duel."""

from __future__ import annotations

from collections.abc import Mapping

from flashbench.analysis.compare import Comparison
from flashbench.analysis.row_words import row_name
from flashbench.report.duel import duel_line, duel_title
from flashbench.report.github import Annotation, Level
from flashbench.results.record import AnyRow, Results, Verdict

LEVELS: Mapping[Verdict, Level] = {
    "regressed": "error",
    "a_faster": "error",
    "failed": "error",
    "inconclusive": "warning",
}


def duel_annotations(results: Results) -> list[Annotation]:
    """One for each duel that B lost, in which a side failed, or that is undecided."""
    return [
        Annotation(_level(duel.verdict, results.rows[duel.b]), duel_title(results), duel_line(results, duel))
        for duel in results.duels
        if duel.verdict in LEVELS
    ]


def compare_annotations(comparison: Comparison) -> list[Annotation]:
    """One for each pair that regressed, failed or cannot be judged."""
    return [
        Annotation(
            _level(pair.verdict, pair.new),
            f"{pair.verdict}: {row_name(pair.new)}",
            ", ".join(
                filter(
                    None,
                    (
                        "" if pair.time_ratio is None else f"time {pair.time_ratio:.2f}x",
                        "" if pair.memory_ratio is None else f"memory {pair.memory_ratio:.2f}x",
                        pair.note,
                    ),
                )
            )
            or pair.verdict,
        )
        for pair in comparison.pairs
        if pair.verdict in LEVELS
    ]


def _level(verdict: Verdict, judged: AnyRow) -> Level:
    """A failure of the other side is a warning: it is no error of the judged side."""
    return "warning" if verdict == "failed" and judged.status == "ok" else LEVELS[verdict]
