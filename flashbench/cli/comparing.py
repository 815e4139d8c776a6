"""What `flashbench compare` compares: two files, two files host by host, or hosts with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import RenderableType

from flashbench.analysis.across_hosts import across_hosts
from flashbench.analysis.compare import compare
from flashbench.analysis.compare_hosts import compare_hosts
from flashbench.errors import ConfigError
from flashbench.report.across_hosts import across_json, across_markdown, across_report
from flashbench.report.annotations import across_annotations, compare_annotations, compare_hosts_annotations
from flashbench.report.compare import compare_json, compare_markdown, compare_report
from flashbench.report.compare_hosts import compare_hosts_json, compare_hosts_markdown, compare_hosts_report
from flashbench.report.github import Annotation
from flashbench.results.store import load


class Verdicts(NamedTuple):
    """A comparison in every form in which the command shows it."""

    table: RenderableType
    markdown: str
    json: Callable[[], str]  # large
    annotations: list[Annotation]
    exit_code: int


def compare_files(files: Sequence[str], *, fail_over: float, force: bool) -> Verdicts:
    """Two files; of several hosts, each host with itself. Raises ConfigError, ResultsError."""
    if len(files) != 2:
        raise ConfigError(
            f"compare takes two files, BASE.json and NEW.json, not {len(files)}",
            hint="--across hosts takes any number",
        )
    base, new = (load(path) for path in files)
    if not base.hosts and not new.hosts:
        pair = compare(base, new, base_name=files[0], new_name=files[1], fail_over=fail_over, force=force)
        return Verdicts(
            compare_report(pair),
            compare_markdown(pair),
            lambda: compare_json(pair),
            compare_annotations(pair),
            pair.exit_code,
        )
    hosts = compare_hosts(base, new, base_name=files[0], new_name=files[1], fail_over=fail_over, force=force)
    return Verdicts(
        compare_hosts_report(hosts),
        compare_hosts_markdown(hosts),
        lambda: compare_hosts_json(hosts),
        compare_hosts_annotations(hosts),
        hosts.exit_code,
    )


def compare_across(files: Sequence[str], *, fail_over: float, force: bool) -> Verdicts:
    """The hosts of all files with each other. Raises ResultsError."""
    across = across_hosts([(path, load(path)) for path in files], fail_over=fail_over, force=force)
    return Verdicts(
        across_report(across),
        across_markdown(across),
        lambda: across_json(across),
        across_annotations(across),
        across.exit_code,
    )
