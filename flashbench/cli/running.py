"""What profile and sweep share: run a study, show how far it is, keep its results, print its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from flashbench.errors import ConfigError, FlashbenchError
from flashbench.results.record import Results
from flashbench.results.store import check_writable, encode, save
from flashbench.studies import runner
from flashbench.studies.study import Study

OnProgress = Callable[[runner.Progress], None]


class RunInterruptedError(FlashbenchError):
    """Ctrl-C during a run; the message says what was kept."""

    exit_code = 130


def run_and_report(
    study: Study,
    *,
    command: Sequence[str],
    json: str | None,
    keep: str | None,
    report: Callable[[Console, Results], None],
) -> None:
    """Run, keep the results where asked, print the report; exits with 1 if a point was tried and failed.

    With `json` stdout carries nothing but the results, and the report goes to stderr. Places that cannot
    be written are refused before anything runs.
    """
    if keep == "-":
        raise ConfigError("--save takes a file, not '-'", hint="--json - writes the results to stdout")
    if json is not None and json == keep:
        raise ConfigError(f"--json and --save are both {keep}: one of them is enough")
    files = [path for path in (json, keep) if path is not None and path != "-"]
    for path in files:
        check_writable(path)
    console = Console(stderr=json is not None)
    try:
        with _progress() as on_progress:
            results = runner.run(study, command=command, on_progress=on_progress)
    except runner.Interrupted as stop:
        raise RunInterruptedError(_keep_partial(stop.results, files)) from stop
    for path in files:
        save(results, path)
    if json == "-":
        sys.stdout.write(encode(results).decode())
        sys.stdout.flush()
    report(console, results)
    raise typer.Exit(1 if runner.failed(results) else 0)


def _keep_partial(results: Results, files: Sequence[str]) -> str:
    """Keep what is finished, but never in the place of a file that was there before the run."""
    count = len(results.measurements)
    finished = f"{count} measurement{'' if count == 1 else 's'} finished"
    if not count or not files:
        return f"{finished}, none kept"
    kept = []
    for name in files:
        path = Path(name)
        if path.is_file():
            path = path.with_name(f"{path.stem}.partial{path.suffix}")
        save(results, path)
        kept.append(str(path))
    return f"{finished}, kept in {' and '.join(kept)}"


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar on stderr if that is a terminal; a line per finished point if it is not."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_per_point()
        return
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    # Drawn between the measurements alone: a thread that redraws would take time from what is timed.
    with ProgressBar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("starting", total=None)

        def on_progress(step: runner.Progress) -> None:
            bar.update(task, description=step.label, completed=step.done, total=step.total, refresh=True)

        yield on_progress


def _line_per_point() -> OnProgress:
    last = -1

    def on_progress(step: runner.Progress) -> None:
        nonlocal last
        if step.done != last:
            last = step.done
            typer.echo(f"[{step.done}/{step.total}] {step.label}", err=True)

    return on_progress
