"""What profile and sweep share: run a study, show how far it is, keep its results, print its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import typer
from rich.console import Console

from flashbench.cli.progress import show_progress
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.results.record import Results
from flashbench.results.store import encode
from flashbench.results.stream import GrowingFile
from flashbench.studies import runner
from flashbench.studies.study import Study


class RunInterruptedError(FlashbenchError):
    """Ctrl-C during a run; the message says what was kept."""

    exit_code = 130


def run_and_report(
    study: Study,
    *,
    command: Sequence[str],
    json: str | None,
    keep: str | None,
    resume: bool,
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
    names = [path for path in (json, keep) if path is not None and path != "-"]
    if resume and len(names) != 1:
        raise ConfigError(
            f"--resume needs one file to go on with, not {len(names)}",
            hint="name the file of the unfinished run with --save",
        )
    files = [GrowingFile(path, resume=resume) for path in names]
    console = Console(stderr=json is not None)

    def keep_all(results: Results) -> None:
        for file in files:
            file.write(results)

    try:
        with show_progress() as on_progress:
            results = runner.run(
                study,
                command=command,
                on_progress=on_progress,
                on_results=keep_all if files else None,
                earlier=files[0].earlier if resume else None,
            )
    except runner.Interrupted as stop:
        message, hint = _what_is_kept(stop.results, files)
        raise RunInterruptedError(message, hint=hint) from stop
    for file in files:
        file.finish(results)
    if json == "-":
        sys.stdout.write(encode(results).decode())
        sys.stdout.flush()
    report(console, results)
    for line in results.warnings:
        typer.echo(f"warning: {line}", err=True)
    if not results.complete:
        typer.echo("warning: the time budget ended before every point was measured", err=True)
    raise typer.Exit(1 if runner.failed(results) else 0)


def _what_is_kept(results: Results, files: Sequence[GrowingFile]) -> tuple[str, str | None]:
    count = len(results.measurements)
    measured = f"{count} measurement{'' if count == 1 else 's'} begun or finished"
    files = [file for file in files if file.is_file]
    if not count or not files:
        return f"{measured}, none kept", None
    kept = [str(file.write(results)) for file in files]
    return f"{measured}, kept in {' and '.join(kept)}", "the same command with --resume goes on"
