"""`flashbench compare`: a verdict per row of two results files, or per host."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options

EPILOG = (
    "Examples:\n"
    "  flashbench compare old.json new.json\n"
    "  flashbench compare old.json new.json --fail-over 10% --format markdown\n"
    "  flashbench compare results/documented.json mine.json --force\n"
    "  flashbench compare tokens-old.json tokens-new.json\n"
    "  flashbench compare --across hosts cluster.json\n"
    "  flashbench compare --across hosts node1.json node2.json node3.json\n\n"
    "Exit code: 0 all same or improved; 1 something regressed; 2 bad input; 3 something is inconclusive, or "
    "failed in the first file alone, or the files are not comparable; 4 something failed in the second file: "
    "it crashed, ran out of memory or time, is wrong, unsupported or too large, or all is so in both. 1 goes "
    "before 4, and 4 before 3. --force compares them all the same, and the exit code then says what the "
    "verdicts say. A file is the same as itself: 0. Another figure without samples, such as the documented "
    "ones, has no verdict on its time: 3, unless its memory has one. Files of several hosts are compared "
    "host by host.\n\n"
    "--across hosts judges each host against the others of its CPU model and settings: 0 none is slower; 1 "
    "one is slower; 2 bad input; 3 one cannot be told; 4 on one alone something failed."
)
FORMATS = ("table", "markdown", "json")


def compare(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE.json",
            help="BASE.json, the results to compare with, and NEW.json, the results to judge. With --across "
            "hosts: one file or more, of one host or several each.",
            show_default=False,
        ),
    ],
    across: Annotated[
        str | None,
        typer.Option(
            "--across",
            metavar="hosts",
            help="Say which hosts are slower than the others of their CPU model.",
            autocompletion=lambda: ["hosts"],
        ),
    ] = None,
    fail_over: Annotated[
        str,
        typer.Option("--fail-over", metavar="SHARE", help="Slower by more than this regresses: 5% or 0.05."),
    ] = "5%",
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Compare results of unlike machines, threads or blocks too; with --across hosts of unlike "
            "settings.",
        ),
    ] = False,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="table, markdown or json.",
            autocompletion=lambda: list(FORMATS),
        ),
    ] = "table",
    json: Annotated[str | None, options.json("the comparison")] = None,
) -> None:
    """Say of every row in both files, also of train and infer, whether it improved, stayed or regressed; or
    which hosts are slower than their peers."""
    # Inside: these import NumPy, which --help must not.
    import sys

    from rich.console import Console

    from flashbench.cli.comparing import compare_across, compare_files
    from flashbench.cli.streams import check_output, write_output
    from flashbench.cli.values import parse_choices, parse_share
    from flashbench.report.github import report_to_github

    limit = parse_share("--fail-over", fail_over)
    words = {word: word for word in FORMATS}
    shown = parse_choices("--format", format_, words, many=False)[0]
    judge = compare_files
    if across is not None:
        judge = parse_choices("--across", across, {"hosts": compare_across}, many=False)[0]
    check_output(json)
    verdicts = judge(files, fail_over=limit, force=force)
    if json is not None:
        write_output(json, verdicts.json())
    out = sys.stdout if json is None else sys.stderr
    if shown == "table":
        Console(file=out).print(verdicts.table)
    else:
        out.write(verdicts.json() if shown == "json" else verdicts.markdown)
    report_to_github(
        verdicts.markdown,
        verdicts.annotations,
        out=sys.stderr if shown == "json" else out,  # stdout is data
    )
    raise typer.Exit(verdicts.exit_code)
