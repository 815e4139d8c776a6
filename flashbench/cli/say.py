"""Messages of one line, beside the tables."""

from __future__ import annotations

import typer

from flashbench.results.one_line import one_line


def say(text: str, *, err: bool = True) -> None:
    """Print the text as one line, even if a name of a file or an engine in it has line breaks."""
    typer.echo(one_line(text), err=err)
