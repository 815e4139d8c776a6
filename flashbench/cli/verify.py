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
    "  flashbench verify --dtype bfloat16 --causal --direction fwd --threads 1\n"
    "  flashbench verify --list\n"
    "  flashbench verify --suite torch\n"
    "  flashbench verify --suite flash-attention --sample 500\n"
    "  flashbench verify --engine torch-flash --scripts findings\n"
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
    context: typer.Context,
    engine: Annotated[list[str] | None, options.engine("default flash and standard")] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case",
            metavar="NAME,...",
            help="Run only this case, or those whose names begin so, such as square-2; again for more.",
            autocompletion=_case_words,
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="Such as torch. default: every feature, odd shapes, extreme values; two minutes on two "
            "cores. torch: PyTorch's grid for CPUs; two minutes. flash-attention: that project's grid; "
            "hours, or --sample.",
            autocompletion=_suite_words,
            show_default=False,
        ),
    ] = "default",
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="N",
            help="Run so many of the cases by chance, such as 500, the same each time.",
        ),
    ] = None,
    seed: Annotated[
        str,
        typer.Option(
            "--seed", metavar="N", help="Draw another sample, such as 1 (default 0).", show_default=False
        ),
    ] = "0",
    dtype: Annotated[list[str] | None, options.dtype("all")] = None,
    causal: Annotated[str | None, options.causal("both")] = None,
    direction: Annotated[list[str] | None, options.direction("fwd,bwd", words=("fwd", "bwd"))] = None,
    threads: options.Threads = None,
    list_: Annotated[bool, typer.Option("--list", help="Name the cases and run none.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A row per case.")] = False,
    scripts: Annotated[
        str | None,
        typer.Option(
            "--scripts",
            metavar="DIR",
            help="Write a program for each finding, of NumPy and the library's own call, such as findings.",
        ),
    ] = None,
    json: Annotated[str | None, options.json("every error and finding")] = None,
) -> None:
    """Check outputs and gradients against a float64 oracle: shapes, blocks, features, extreme values."""
    # Inside: these import NumPy, which --help must not.
    import sys
    from collections import Counter

    from rich.console import Console

    from flashbench.cli.progress import show_progress
    from flashbench.cli.readers import all_engines, many, read_engines
    from flashbench.cli.streams import check_output, write_output
    from flashbench.cli.values import parse_seed, parse_whole
    from flashbench.cli.verifying import make_directory, narrowed, options_of, write_scripts
    from flashbench.report.findings import finding_lines
    from flashbench.report.verify import verify_json, verify_lines, verify_report
    from flashbench.studies import verify as study
    from flashbench.studies.audit import audit
    from flashbench.studies.cases import choose_cases, sample_cases

    words = [word.strip() for words in case or [] for word in words.split(",")]
    cases = narrowed(choose_cases(words, suite), context.params)
    if sample is not None:
        cases = sample_cases(cases, parse_whole("--sample", sample), parse_seed("--seed", seed))
    if list_:
        sys.stdout.write("".join(f"{each.name}\n" for each in cases))
        return
    check_output(json)
    if scripts is not None:
        make_directory(scripts)
    names = many(read_engines)("--engine", engine or study.DEFAULT_ENGINES)
    engines = all_engines(list(dict.fromkeys(names)))
    with show_progress(at_once=False) as on_progress:
        verification = study.verify(
            engines, cases, on_progress, suite=suite, options=options_of(context.params)
        )
    # The results first: to explain them runs the engines again, which may end the process.
    out = sys.stdout if json is None else sys.stderr
    Console(file=out).print(verify_report(verification, verbose=verbose))
    for line in verify_lines(verification, verbose=verbose):
        out.write(f"{line}\n")
    out.flush()
    if json is not None and json != "-":
        write_output(json, verify_json(verification))
    findings = []
    failed = Counter(result.engine for result in verification.results if result.failed)
    if failed:
        with show_progress(at_once=False) as on_progress:
            findings = audit(verification, cases, on_progress)
    if json is not None and (findings or json == "-"):
        write_output(json, verify_json(verification, findings))
    if failed:
        written = [] if scripts is None else write_scripts(scripts, findings)
        out.write("\n" + "\n".join(finding_lines(findings, written, failed)) + "\n")
    raise typer.Exit(verification.exit_code)
