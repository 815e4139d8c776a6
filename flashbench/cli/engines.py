"""`flashbench engines`: what is installed, and what each can do."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options

EPILOG = (
    "Examples:\n"
    "  flashbench engines\n"
    "  flashbench engines --json - | jq '.[] | select(.state == \"ready\") | .name'\n\n"
    "Another package adds an engine by the entry point group flashbench.engines. Each is loaded in a process "
    "of its own: one that crashes, exits or hangs is a line of the list. Exit code: 0, whatever is found; 2 "
    "bad input."
)


def engines(
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="S", help="Seconds an engine may take to load (default 60)."),
    ] = None,
    json: Annotated[str | None, options.json("the list, with the reasons for what an engine lacks,")] = None,
) -> None:
    """List the engines: ready, not installed or broken, and what each supports."""
    # Inside: these import NumPy, which --help must not.

    from rich.console import Console

    from flashbench.cli.streams import check_output, write_output
    from flashbench.cli.values import parse_seconds
    from flashbench.report.engines import engines_json, engines_report
    from flashbench.studies.engine_list import PROBE_TIMEOUT_S, list_engines

    timeout_s = PROBE_TIMEOUT_S if timeout is None else parse_seconds("--timeout", timeout)
    check_output(json)
    found = list_engines(timeout_s=timeout_s)
    if json is not None:
        write_output(json, engines_json(found))
    Console(stderr=json is not None).print(engines_report(found))
