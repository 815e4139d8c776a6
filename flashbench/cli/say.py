"""A line of its own beside the tables."""

from __future__ import annotations

import typer

from flashbench.results.one_line import one_line


def say(text: str, *, err: bool = True) -> None:
    """Print the text as one line, whatever is in it, such as the name of a file or of an engine."""
    typer.echo(one_line(text), err=err)
