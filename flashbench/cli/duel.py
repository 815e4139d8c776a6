"""`flashbench duel`: A against B, in randomly ordered rounds of fresh processes."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import groups, options
from flashbench.cli.groups import Given, Output, grouped

EPILOG = (
    "Examples:\n"
    "  flashbench duel flash standard\n"
    "  flashbench duel flash torch-flash --seq-lens 512,2k --heads 8 --dtype float32\n"
    "  flashbench duel flash --python-a .venv-main/bin/python --python-b .venv-change/bin/python\n"
    "  flashbench duel flash torch-flash --decode --seq-lens 8k\n"
    "  flashbench duel flash --dtype bfloat16 --path-a convert --path-b amx\n"
    "  flashbench duel flash standard --save duel.json --resume\n"
    "  flashbench duel --aa\n"
    "  flashbench duel sdpa flash --from tokens.json\n\n"
    "Verdicts: of two engines which one is faster, or same; of two versions of one engine improved, same or "
    "regressed; inconclusive where even the last round cannot tell; failed where a side crashed, ran out of "
    "memory or time, is wrong, unsupported or too large.\n\n"
    "Exit code: 0 B is the same or faster; 1 B is slower; 2 bad input, nothing that can be measured, or a "
    "threshold below the noise floor; 3 inconclusive, or only A failed; 4 B failed. Of several problems 1 "
    "goes before 4, and 4 before 3."
)


@grouped
def duel(
    context: typer.Context,
    *,
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="The engine to compare with.", autocompletion=options.engine_words),
    ] = "flash",
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="B", help="The engine to judge (default A's).", autocompletion=options.engine_words
        ),
    ] = None,
    python_a: Annotated[
        str | None,
        typer.Option(
            "--python-a",
            metavar="PATH",
            help="Interpreter of A's environment, such as .venv/bin/python (default this one).",
        ),
    ] = None,
    python_b: Annotated[
        str | None,
        typer.Option(
            "--python-b",
            metavar="PATH",
            help="Interpreter of B's environment, such as .venv/bin/python (default this one).",
        ),
    ] = None,
    path_a: Annotated[
        str | None,
        typer.Option(
            "--path-a", metavar="P", help="A's path, such as convert (default that of --path, else auto)."
        ),
    ] = None,
    path_b: Annotated[
        str | None,
        typer.Option(
            "--path-b", metavar="P", help="B's path, such as amx (default that of --path, else auto)."
        ),
    ] = None,
    aa: Annotated[
        bool,
        typer.Option("--aa", help="A against itself: measure this machine's noise floor, and keep it."),
    ] = False,
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold", metavar="SHARE", help="A change up to this is the same, such as 5% or 0.05."
        ),
    ] = "5%",
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Judge two attentions of a file of train or infer, such as tokens.json, whose rounds took "
            "turns, and measure nothing (default A: standard or sdpa, B: flash).",
        ),
    ] = None,
    problem: Annotated[Given, groups.problem("1024")],
    features: Annotated[Given, groups.FEATURES],
    engines: Annotated[Given, groups.engines().without("engine")],
    rounds: Annotated[
        str | None, options.rounds("as few as can decide: 7 for one problem", "Rounds between looks")
    ] = None,
    looks: Annotated[
        str,
        typer.Option(
            "--looks",
            metavar="N",
            help="Looks at most, such as 2, rounds being added between them while it is inconclusive.",
            rich_help_panel=options.MEASURING,
        ),
    ] = "3",
    measuring: Annotated[Given, groups.measuring().without("rounds", "budget", "memory", "memory_budget")],
    output: Annotated[Output, groups.OUTPUT],
) -> None:
    """Fight A against B until it is clear which is faster, or that more rounds would not tell."""
    # Inside: these import NumPy, which --help must not.
    from functools import partial

    from flashbench.cli.duel_from import duel_from
    from flashbench.cli.running import run_into_files
    from flashbench.cli.settings import build_duel
    from flashbench.report.annotations import duel_annotations
    from flashbench.report.duel import duel_report
    from flashbench.report.github import report_to_github
    from flashbench.report.markdown import results_markdown
    from flashbench.studies import duel as study
    from flashbench.studies.noise_floor import check_floor, keep_floor

    if from_ is not None:
        raise typer.Exit(duel_from(from_, context, output))
    settings = build_duel(context.params)
    files, results = run_into_files(
        partial(study.fight, to_the_end=aa),
        settings,
        command=context.obj,
        output=output,
        cpus=settings.study.cpus,
    )
    console = files.console
    console.print(duel_report(results))
    files.warn(results)
    if aa:
        floor = study.floor_of(results)
        refuses = ": duel refuses a smaller --threshold from now on" if keep_floor(floor) else ""
        console.print(f"noise floor {100 * floor.floor:.1f}%{refuses}")
        check_floor(floor, settings.threshold)
        raise typer.Exit(0)
    report_to_github(results_markdown(results), duel_annotations(results), out=console.file)
    raise typer.Exit(study.exit_code(results))
