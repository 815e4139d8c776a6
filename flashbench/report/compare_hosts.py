"""A comparison of two files of several hosts: a section for each host."""

from __future__ import annotations

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.compare_hosts import HostComparison
from flashbench.analysis.words import counted
from flashbench.report.compare import compare_markdown, compare_report
from flashbench.report.escapes import escape_markdown, markdown_list
from flashbench.report.layout import verdict_counts
from flashbench.texts import indented_json


def compare_hosts_report(comparison: HostComparison) -> RenderableType:
    """The comparison for a terminal."""
    parts: list[RenderableType] = []
    for host, own in comparison.hosts.items():
        parts += [Text.assemble("host ", (host, "bold")), compare_report(own), Text()]
    return Group(*parts, *map(Text, [*_missing_lines(comparison), _summary(comparison)]))


def compare_hosts_markdown(comparison: HostComparison) -> str:
    """The comparison as GitHub renders it."""
    blocks = [f"**{_summary(comparison)}**", markdown_list(_missing_lines(comparison))]
    for host, own in comparison.hosts.items():
        blocks += [f"### host {escape_markdown(host)}", compare_markdown(own).rstrip()]
    return "\n\n".join(filter(None, blocks)) + "\n"


def compare_hosts_json(comparison: HostComparison) -> str:
    """The whole comparison, with both rows of each pair."""
    document = msgspec.to_builtins(comparison) | {"exit_code": comparison.exit_code}
    for host, own in comparison.hosts.items():
        document["hosts"][host]["exit_code"] = own.exit_code
    return indented_json(document).decode()


def _summary(comparison: HostComparison) -> str:
    pairs = [pair for own in comparison.hosts.values() for pair in own.pairs]
    listed = verdict_counts(pair.verdict for pair in pairs)
    hosts = counted(len(comparison.hosts), "host")
    return f"{hosts}, {len(pairs)} compared, allowing {comparison.fail_over * 100:g}%: {listed}"


def _missing_lines(comparison: HostComparison) -> list[str]:
    lines = [f"not compared: {why}" for why in comparison.incomparable.values()]
    sides = (("base", comparison.only_in_base), ("new", comparison.only_in_new))
    return lines + [f"only in {side}: {', '.join(hosts)}" for side, hosts in sides if hosts]
