"""Run a study of whole models, or show its file: what `train` and `infer` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import typer
from rich.console import Console, RenderableType

from flashbench.cli.groups import Output
from flashbench.cli.output import ResultFiles
from flashbench.cli.progress import show_progress
from flashbench.results.record import Results
from flashbench.results.store import load_of
from flashbench.system.affinity import pinned_to


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
) -> None:
    """Print the file `show`, or run the study and exit with 1 if a point failed or none was measured.

    study: the package, with `run` and `failed`. given: the options; `settings_of` makes settings of them.
    """
    if show is not None:
        Console().print(report(load_of(kind, show)))
        return
    settings = settings_of(given)
    files = ResultFiles(output)
    with show_progress() as on_progress, files.keeping_interrupted(), pinned_to(settings.cpus):
        results = study.run(
            settings,
            command=command,
            on_progress=on_progress,
            on_results=files.keep,
            earlier=files.earlier,
        )
    files.finish(results)
    files.console.print(report(results))
    files.warn(results)
    raise typer.Exit(1 if study.failed(results) else 0)
