"""`flashbench verify`: exactness and gradients of any engine against the float64 oracle."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options

EPILOG = (
    "Examples:\n"
    "  flashbench verify\n"
    "  flashbench verify --engine numpy --case square --case gqa-8-2\n"
    "  flashbench verify --engine all --case head-dim\n"
    "  flashbench verify --case nan --verbose\n"
    "  flashbench verify --list\n"
    "  flashbench verify --suite torch\n"
    "  flashbench verify --suite flash-attention --sample 500\n"
    "  flashbench verify --json exactness.json\n\n"
    "Exit code: 0 everything is exact; 1 an engine is wrong or raised an error, or nothing was verified; 2 "
    "bad input, or nothing that an engine supports."
)


def _case_words(context: typer.Context) -> list[str]:
    from flashbench.studies.cases import DEFAULT_SUITE, all_cases

    return [case.name for case in all_cases(context.params.get("suite") or DEFAULT_SUITE)]


def _suite_words() -> list[str]:
    from flashbench.studies.cases import SUITES

    return list(SUITES)


def verify(
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            "-e",
            metavar="NAME",
            help="One of `flashbench engines`, or all that are ready; give it again for more "
            "(default flash and standard).",
            autocompletion=options.engine_words_or_all,
        ),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case",
            metavar="NAME",
            help="Run only this case, or those whose names begin so; give it again for more.",
            autocompletion=_case_words,
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="default: every feature, odd shapes, extreme values; half a minute on two cores. torch: "
            "PyTorch's grid for CPUs; a minute. flash-attention: that project's grid; half an hour.",
            autocompletion=_suite_words,
        ),
    ] = "default",
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", metavar="N", min=1, help="Run so many of the cases by chance, the same each time."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Draw another sample.")] = 0,
    list_: Annotated[bool, typer.Option("--list", help="Name the cases and run none.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A row per case.")] = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="PATH|-",
            help="Write every error there, - for stdout; all else then goes to stderr.",
        ),
    ] = None,
) -> None:
    """Check outputs and gradients against a float64 oracle: shapes, blocks, features, extreme values."""
    # Inside: these import NumPy, which --help must not.
    import sys

    from rich.console import Console

    from flashbench.cli.progress import show_progress
    from flashbench.report.verify import verify_json, verify_lines, verify_report
    from flashbench.results.store import check_writable, write_whole
    from flashbench.studies import verify as study
    from flashbench.studies.cases import choose_cases, sample_cases
    from flashbench.studies.engine_list import resolve_engines

    cases = choose_cases(case or [], suite)
    if sample is not None:
        cases = sample_cases(cases, sample, seed)
    if list_:
        sys.stdout.write("".join(f"{each.name}\n" for each in cases))
        return
    if json is not None and json != "-":
        check_writable(json)
    engines, left_out = resolve_engines(list(dict.fromkeys(engine or study.DEFAULT_ENGINES)))
    for line in left_out:
        typer.echo(line, err=True)
    with show_progress(at_once=False) as on_progress:
        verification = study.verify(engines, cases, on_progress, suite=suite)
    if json is not None and json != "-":
        write_whole(json, verify_json(verification).encode())
    if json == "-":
        sys.stdout.write(verify_json(verification))
    out = sys.stdout if json is None else sys.stderr
    Console(file=out).print(verify_report(verification, verbose=verbose))
    for line in verify_lines(verification, verbose=verbose):
        out.write(f"{line}\n")
    raise typer.Exit(verification.exit_code)
