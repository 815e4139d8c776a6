"""Run a study of whole models, or show its file: what `train` and `infer` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import typer
from rich.console import Console, RenderableType

from flashbench.cli.groups import Output
from flashbench.cli.plotting import NO_CHART, check_plot, write_plot
from flashbench.cli.running import run_into_files
from flashbench.results.record import Results
from flashbench.results.store import load_of


def run_or_show(
    study: Any,
    kind: Literal["train", "infer"],
    settings_of: Callable[[Mapping[str, Any]], Any],
    report: Callable[[Results], RenderableType],
    *,
    given: Mapping[str, Any],
    command: Sequence[str],
    output: Output,
    show: str | None,
    plot: str | None,
) -> None:
    """Print the file `show`, or run the study and exit with 1 if a point failed or none was measured.

    study: the package, with `run` and `failed`. given: the options; `settings_of` makes settings of them.
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
        print_report(Console(), load_of(kind, show))
        return
    settings = settings_of(given)
    files, results = run_into_files(study.run, settings, command=command, output=output, cpus=settings.cpus)
    print_report(files.console, results)
    files.warn(results)
    raise typer.Exit(1 if study.failed(results) else 0)
