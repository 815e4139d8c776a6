"""Run a study: show progress, keep the results, print the report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import typer
from rich.console import Console

from flashbench.cli.groups import HERE, Output, Where
from flashbench.cli.output import ResultFiles
from flashbench.cli.progress import show_progress
from flashbench.cli.say import say
from flashbench.errors import ConfigError
from flashbench.report.across_hosts import across_report
from flashbench.report.hosts import across_of, host_line
from flashbench.results.hosts import each_host
from flashbench.results.record import Results
from flashbench.studies import runner
from flashbench.studies.shortage import shortage_lines
from flashbench.studies.study import Study
from flashbench.system.affinity import pinned_to


def run_into_files(
    run: Callable[..., Results],
    settings: Any,
    *,
    command: Sequence[str],
    output: Output,
    cpus: Collection[int] | None,
    where: Where = HERE,
) -> tuple[ResultFiles, Results]:
    """Run a study with its progress on the screen, its results in files, and its workers on these CPUs.

    A file that cannot be written is an error before anything runs. On a cluster each host pins its own
    workers.
    """
    if where.each_node and where.cluster is None:
        raise ConfigError("--each-node measures on each host of a cluster: give --cluster too")
    if where.cluster is not None:
        from flashbench.studies.cluster import run_on_cluster  # here: needs msgspec's schema of every study

        run, cpus = partial(run_on_cluster, cluster=where.cluster, each_node=where.each_node), None
    files = ResultFiles(output)
    with show_progress() as on_progress, files.keeping_interrupted(), pinned_to(cpus):
        results = run(
            settings,
            command=command,
            on_progress=on_progress,
            on_results=files.keep,
            earlier=files.earlier,
        )
    files.finish(results)
    return files, results


def run_and_report(
    study: Study,
    *,
    command: Sequence[str],
    output: Output,
    where: Where,
    report: Callable[[Console, Results], None],
) -> None:
    """Run a study of profile or sweep; exit with 1 if a point failed or none was measured.

    With --json stdout has the results alone, and the report goes to stderr.
    """
    files, results = run_into_files(
        runner.run, study, command=command, output=output, cpus=study.cpus, where=where
    )
    report_each_host(files.console, results, report)
    files.warn(results)
    if study.budget_s is not None:
        _say_what_is_missing(study, results, kept=output.file)
    raise typer.Exit(1 if runner.failed(results) else 0)


def report_each_host(console: Console, results: Results, report: Callable[[Console, Results], None]) -> None:
    """Print a report of each host's results; on a cluster each below a line that names the host.

    Below them are the verdicts on hosts that measured the same.
    """
    for number, one in enumerate(each_host(results)):
        if results.hosts:
            if number:
                console.print()
            console.print(host_line(one))
        report(console, one)
    across = across_of(results)
    if across is not None:
        console.print()
        console.print(across_report(across))


def _say_what_is_missing(study: Study, results: Results, *, kept: str | None) -> None:
    """After a time budget: say which points have no samples or fewer than others, and how to go on."""
    label = "note" if results.complete else "warning"
    if not results.complete:
        say("warning: the time budget ended before every point was measured")
    lines = shortage_lines(study, results)
    for line in lines:
        say(f"{label}: {line}")
    if lines:
        to_keep = "" if kept else "--save FILE keeps what is measured; "
        say(f"hint: {to_keep}the same command with --resume, and any --budget, goes on")
