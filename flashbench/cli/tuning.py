"""The work of `flashbench tune`: plan and run, or show or delete the table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console

from flashbench.cli.output import RunInterruptedError
from flashbench.cli.progress import show_progress
from flashbench.cli.readers import ONE_COUNT, OPTIONS, PASSES, Options, read_params
from flashbench.cli.streams import check_output, write_output
from flashbench.report.tune import table_lines, tune_json, tune_lines, tune_report
from flashbench.results.one_line import one_line
from flashbench.studies.tune.keep import Tuned, reset, shown
from flashbench.studies.tune.plan import Plan
from flashbench.studies.tune.run import Interrupted, tune
from flashbench.system.affinity import pinned_to
from flashbench.system.cores import available_cores

_OPTIONS: Options = {
    **{name: OPTIONS[name] for name in ("seq_lens", "dtype", "head_dim", "causal", "cpus")},
    "threads": ONE_COUNT,
    "direction": PASSES,
}


def build_plan(params: Mapping[str, Any]) -> Plan:
    """The plan of the command's parameters; None and an empty list are "not given".

    Raises ConfigError for a bad option, AttentionError for an impossible problem.
    """
    given = read_params(params, _OPTIONS)
    with pinned_to(given.get("cpus")):
        return Plan(**{"threads": available_cores(), **given})


def run_and_keep(plan: Plan, *, json: str | None) -> None:
    """Tune and print the result; exit with 1 if a process failed."""
    check_output(json)
    try:
        with show_progress() as on_progress, pinned_to(plan.cpus):
            tuned = tune(plan, on_progress=on_progress)
    except Interrupted as stop:
        done = f"{len(stop.tuned.outcomes)} of {stop.tuned.asked} tuned"
        kept = f", kept in {stop.tuned.path}" if stop.tuned.outcomes else ""
        raise RunInterruptedError(f"{done}{kept}") from stop
    _print(tuned, tune_lines(tuned), json=json)
    raise typer.Exit(tuned.exit_code)


def print_table(*, json: str | None) -> None:
    """Print the table that `auto` uses."""
    check_output(json)
    tuned = shown()
    _print(tuned, table_lines(tuned), json=json)


def reset_table() -> None:
    """Delete this CPU's table, or say that there is none."""
    path = reset()
    typer.echo("there is no table of this CPU" if path is None else f"deleted {path}")


def _print(tuned: Tuned, lines: Sequence[str], *, json: str | None) -> None:
    if json is not None:
        write_output(json, tune_json(tuned))
    out = sys.stdout if json is None else sys.stderr
    if tuned.outcomes:
        Console(file=out).print(tune_report(tuned))
        out.write("\n")
    for line in lines:
        out.write(f"{one_line(line)}\n")
