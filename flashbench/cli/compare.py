"""`flashbench compare`: a verdict per row of two results files."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options

EPILOG = (
    "Examples:\n"
    "  flashbench compare old.json new.json\n"
    "  flashbench compare old.json new.json --fail-over 10% --format markdown\n"
    "  flashbench compare results/documented.json mine.json --force\n"
    "  flashbench compare tokens-old.json tokens-new.json\n\n"
    "Exit code: 0 all same or improved; 1 something regressed; 2 bad input; 3 something is inconclusive, or "
    "failed in the first file alone, or the files are not comparable; 4 something failed in the second file: "
    "it crashed, ran out of memory or time, is wrong, unsupported or too large, or all is so in both. 1 goes "
    "before 4, and 4 before 3. --force compares them all the same, and the exit code then says what the "
    "verdicts say. A file is the same as itself: 0. Another figure without samples, such as the documented "
    "ones, has no verdict on its time: 3, unless its memory has one."
)


def compare(
    base: Annotated[str, typer.Argument(metavar="BASE.json", help="The results to compare with.")],
    new: Annotated[str, typer.Argument(metavar="NEW.json", help="The results to judge.")],
    fail_over: Annotated[
        str,
        typer.Option("--fail-over", metavar="SHARE", help="Slower by more than this regresses: 5% or 0.05."),
    ] = "5%",
    force: Annotated[
        bool, typer.Option("--force", help="Compare results of unlike machines, threads or blocks too.")
    ] = False,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="table, markdown or json.",
            autocompletion=lambda: ["table", "markdown", "json"],
        ),
    ] = "table",
    json: Annotated[str | None, options.json("the comparison")] = None,
) -> None:
    """Say of every row in both files, also of train and infer, whether it improved, stayed or regressed."""
    # Inside: these import NumPy, which --help must not.
    import sys

    from rich.console import Console

    from flashbench.analysis import compare as study
    from flashbench.cli.streams import check_output, write_output
    from flashbench.cli.values import parse_choices, parse_share
    from flashbench.report.annotations import compare_annotations
    from flashbench.report.compare import compare_json, compare_markdown, compare_report
    from flashbench.report.github import report_to_github
    from flashbench.results.store import load

    limit = parse_share("--fail-over", fail_over)
    formats = {"table": None, "markdown": compare_markdown, "json": compare_json}
    as_text = parse_choices("--format", format_, formats, many=False)[0]
    check_output(json)
    comparison = study.compare(
        load(base),
        load(new),
        base_name=base,
        new_name=new,
        fail_over=limit,
        force=force,
    )
    if json is not None:
        write_output(json, compare_json(comparison))
    out = sys.stdout if json is None else sys.stderr
    if as_text is None:
        Console(file=out).print(compare_report(comparison))
    else:
        out.write(as_text(comparison))
    report_to_github(
        compare_markdown(comparison),
        compare_annotations(comparison),
        out=sys.stderr if format_ == "json" else out,  # stdout is data
    )
    raise typer.Exit(comparison.exit_code)
