"""`flashbench machine`: what this machine is and can do, and what to do before measuring on it."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options

EPILOG = (
    "Examples:\n"
    "  flashbench machine\n"
    "  flashbench machine --quick\n"
    "  flashbench machine --json machine.json\n\n"
    "It looks and measures, and changes no setting.\n\n"
    "Exit code: 0 also where something cannot be told or measured; 1 neither peak nor bandwidth could be; 2 "
    "bad input."
)


def machine(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Facts and advice alone: measure nothing.")] = False,
    json: options.Json = None,
) -> None:
    """Show CPU, caches, clocks, load, peak, read bandwidth and noise floor, with advice."""
    # Inside: these import NumPy, which --help must not.
    import sys

    from rich.console import Console

    from flashbench.cli.progress import show_progress
    from flashbench.cli.streams import check_output
    from flashbench.report.machine import machine_report
    from flashbench.results.store import encode, save
    from flashbench.studies.duel import measure_floor
    from flashbench.studies.machine import inspect_machine, measured_nothing

    check_output(json)
    with show_progress() as on_progress:
        results = inspect_machine(
            command=context.obj,
            quick=quick,
            noise_floor=lambda: measure_floor(on_progress=on_progress),
            on_progress=on_progress,
        )
    if json == "-":
        sys.stdout.write(encode(results).decode())
        sys.stdout.flush()
    elif json is not None:
        save(results, json)
    Console(stderr=json is not None).print(machine_report(results))
    raise typer.Exit(1 if measured_nothing(results) else 0)
