"""What profile and sweep share: run a study, show how far it is, keep its results, print its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer
from rich.console import Console

from flashbench.cli.output import ResultFiles
from flashbench.cli.progress import show_progress
from flashbench.results.record import Results
from flashbench.studies import runner
from flashbench.studies.study import Study


def run_and_report(
    study: Study,
    *,
    command: Sequence[str],
    json: str | None,
    keep: str | None,
    resume: bool,
    report: Callable[[Console, Results], None],
) -> None:
    """Run, keep the results where asked, print the report; exits with 1 if one failed or none was measured.

    With `json` stdout carries nothing but the results, and the report goes to stderr. Places that cannot
    be written are refused before anything runs.
    """
    files = ResultFiles(json, keep, resume=resume)
    with show_progress() as on_progress, files.keeping_interrupted():
        results = runner.run(
            study,
            command=command,
            on_progress=on_progress,
            on_results=files.keep,
            earlier=files.earlier,
        )
    files.finish(results)
    report(files.console, results)
    files.warn(results)
    if not results.complete:
        typer.echo("warning: the time budget ended before every point was measured", err=True)
    raise typer.Exit(1 if runner.failed(results) else 0)
