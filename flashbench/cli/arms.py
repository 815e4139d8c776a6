"""Run a study of whole models, or show its file: what `train` and `infer` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import typer
from rich.console import Console, RenderableType

from flashbench.cli.groups import Output, Where
from flashbench.cli.plotting import NO_CHART, check_plot, write_plot
from flashbench.cli.running import report_each_host, run_into_files
from flashbench.results.record import Results
from flashbench.results.store import load_of
from flashbench.studies.runner import failed


def run_or_show(
    study: Any,
    kind: Literal["train", "infer"],
    settings_of: Callable[[Mapping[str, Any]], Any],
    report: Callable[[Results], RenderableType],
    *,
    given: Mapping[str, Any],
    command: Sequence[str],
    output: Output,
    where: Where,
    show: str | None,
    plot: str | None,
) -> None:
    """Print the file `show`, or run the study and exit with 1 if a point failed or none was measured.

    study: the package, with `run`. given: the options; `settings_of` makes settings of them.
    plot: where a chart goes.
    """

    def print_report(console: Console, results: Results) -> None:
        # First: the command ends early if the reader of stdout goes away.
        drawn = plot is None or write_plot(plot, results)
        console.print(report(results))
        if not drawn:
            console.print(NO_CHART)

    if plot is not None:
        check_plot(plot, others=(show, output.json, output.save))
    if show is not None:
        report_each_host(Console(), load_of(kind, show), print_report)
        return
    settings = settings_of(given)
    files, results = run_into_files(
        study.run, settings, command=command, output=output, cpus=settings.cpus, where=where
    )
    report_each_host(files.console, results, print_report)
    files.warn(results)
    raise typer.Exit(1 if failed(results) else 0)
