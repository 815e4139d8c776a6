"""What `flashbench tune` does with its options: plan and run, or show and delete the table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, get_args

import typer
from rich.console import Console

from flashbench.cli.output import RunInterruptedError
from flashbench.cli.progress import show_progress
from flashbench.cli.streams import check_output
from flashbench.cli.values import parse_choices, parse_whole, parse_wholes
from flashbench.engines.tuned import Pass
from flashbench.kernels.threads import available_cores
from flashbench.problem import Dtype
from flashbench.report.tune import table_lines, tune_json, tune_lines, tune_report
from flashbench.results.store import write_whole
from flashbench.studies.tune.keep import Tuned, reset, shown
from flashbench.studies.tune.plan import Plan
from flashbench.studies.tune.run import Interrupted, tune


def build_plan(
    *,
    seq_lens: str | None,
    dtype: str | None,
    head_dim: str | None,
    causal: str | None,
    direction: str | None,
    threads: str | None,
) -> Plan:
    """The plan that the options ask for; None is "not given".

    Raises ConfigError for a bad option, AttentionError for an impossible problem.
    """
    given: dict[str, Any] = {}
    if seq_lens is not None:
        given["seq_lens"] = parse_wholes("--seq-lens", seq_lens)
    if dtype is not None:
        given["dtypes"] = _words("--dtype", dtype, get_args(Dtype))
    if head_dim is not None:
        given["head_dims"] = parse_wholes("--head-dim", head_dim)
    if causal is not None:
        known = {"both": [False, True], "yes": [True], "no": [False]}
        given["causal"] = parse_choices("--causal", causal, known, many=False)[0]
    if direction is not None:
        given["directions"] = _words("--direction", direction, get_args(Pass))
    given["threads"] = available_cores() if threads is None else parse_whole("--threads", threads)
    return Plan(**given)


def run_and_keep(plan: Plan, *, json: str | None) -> None:
    """Tune, print what was found; exits with 1 if a process failed."""
    check_output(json)
    try:
        with show_progress() as on_progress:
            tuned = tune(plan, on_progress=on_progress)
    except Interrupted as stop:
        done = f"{len(stop.tuned.outcomes)} of {stop.tuned.asked} tuned"
        kept = f", kept in {stop.tuned.path}" if stop.tuned.outcomes else ""
        raise RunInterruptedError(f"{done}{kept}") from stop
    _print(tuned, tune_lines(tuned), json=json)
    raise typer.Exit(tuned.exit_code)


def print_table(*, json: str | None) -> None:
    """The table that `auto` uses."""
    check_output(json)
    tuned = shown()
    _print(tuned, table_lines(tuned), json=json)


def reset_table() -> None:
    """Delete this CPU's table, or say that there is none."""
    path = reset()
    typer.echo("there is no table of this CPU" if path is None else f"deleted {path}")


def _print(tuned: Tuned, lines: Sequence[str], *, json: str | None) -> None:
    if json is not None and json != "-":
        write_whole(json, tune_json(tuned).encode())
    if json == "-":
        sys.stdout.write(tune_json(tuned))
    out = sys.stdout if json is None else sys.stderr
    if tuned.outcomes:
        Console(file=out).print(tune_report(tuned))
        out.write("\n")
    for line in lines:
        out.write(f"{line}\n")


def _words(option: str, text: str, known: Sequence[str]) -> list[str]:
    return parse_choices(option, text, {word: word for word in known})
