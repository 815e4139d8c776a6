"""Annotations on GitHub's page: what is slower, failed or undecided in a comparison or a duel."""

from __future__ import annotations

from collections.abc import Mapping

from flashbench.analysis.across_hosts import AcrossHosts, Node
from flashbench.analysis.compare import Comparison
from flashbench.analysis.compare_hosts import HostComparison
from flashbench.analysis.host_times import UNDECIDED, HostVerdict
from flashbench.analysis.row_words import row_name
from flashbench.report.across_hosts import node_lines
from flashbench.report.duel import duel_line, duel_title
from flashbench.report.github import Annotation, Level
from flashbench.report.units import format_wide_ratio
from flashbench.results.record import AnyRow, Results, Verdict

LEVELS: Mapping[Verdict, Level] = {
    "regressed": "error",
    "a_faster": "error",
    "failed": "error",
    "inconclusive": "warning",
}
HOST_LEVELS: Mapping[HostVerdict, Level] = {"slower": "error", "failed": "error", UNDECIDED: "warning"}


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


def compare_hosts_annotations(comparison: HostComparison) -> list[Annotation]:
    """Those of each host, which their titles name, and one for each host that is not comparable."""
    return [
        *(
            Annotation("warning", f"{host}: not compared", why)
            for host, why in comparison.incomparable.items()
        ),
        *(
            one._replace(title=f"{host}: {one.title}")
            for host, own in comparison.hosts.items()
            for one in compare_annotations(own)
        ),
    ]


def across_annotations(across: AcrossHosts) -> list[Annotation]:
    """One for each host that is slower, failed or cannot be told."""
    return [
        Annotation(
            HOST_LEVELS[node.verdict],
            f"{node.host}: {node.verdict}",
            "; ".join(filter(None, [_time_word(node), *node_lines(node)])),
        )
        for node in across.nodes
        if node.verdict in HOST_LEVELS
    ]


def _time_word(node: Node) -> str:
    return "" if node.time is None else f"time {format_wide_ratio(node.time.ratio)}"


def _level(verdict: Verdict, judged: AnyRow) -> Level:
    """A failure of the other side is a warning: it is no error of the judged side."""
    return "warning" if verdict == "failed" and judged.status == "ok" else LEVELS[verdict]
