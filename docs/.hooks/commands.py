"""The page of commands, written by Typer from the command line itself whenever the site is built."""

from __future__ import annotations

import re

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click
from typer.main import get_command

from flashbench.cli.app import make_app


def commands_page() -> str:
    command = get_command(make_app(for_command=True))
    context = typer.Context(command, info_name="flashbench")
    text = get_docs_for_click(obj=command, ctx=context, name="flashbench", title="Commands")
    for name, part in command.commands.items():  # Typer's own list is cut to the width of a terminal
        text = re.sub(
            rf"^\* `{name}`: .*$", f"* `{name}`: {part.get_short_help_str(limit=300)}", text, flags=re.M
        )
    text = text.replace("```console\n$ ", "```\n")
    # Examples are lines of their own in a terminal; in Markdown that takes a block.
    return re.sub(
        r"^Examples:\n((?:  \S.*\n)+)",
        lambda found: "**Examples**:\n\n```\n" + re.sub("^  ", "", found[1], flags=re.M) + "```\n",
        text,
        flags=re.M,
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files
