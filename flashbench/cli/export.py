"""`flashbench export`: results in the formats that other tools and CI services read."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = (
    "Examples:\n"
    "  flashbench export results.json --format markdown\n"
    "  flashbench export steps.json --format markdown  # of flashbench train\n"
    "  flashbench export results.json --format csv -o results.csv\n"
    "  flashbench export results.json --format bmf -o bmf.json\n"
    "  bencher run --adapter json --file bmf.json\n"
    "  flashbench export old.json --format pyperf -o old-pyperf.json\n"
    "  flashbench export new.json --format pyperf -o new-pyperf.json\n"
    "  python -m pyperf compare_to old-pyperf.json new-pyperf.json\n\n"
    "What a format has no place for, such as an engine that crashed, is left out and counted on stderr. "
    "docs/export.md describes the formats.\n\n"
    "Exit code: 0 written; 2 bad input, or nothing to write."
)


def _format_words() -> list[str]:
    # Inside: the table of formats imports msgspec, which --help must not.
    from flashbench.results.export import FORMATS

    return [*FORMATS, "markdown"]


def export(
    results: Annotated[str, typer.Argument(metavar="RESULTS.json", help="A results file.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="bmf, github-action-benchmark, google-benchmark, pyperf, csv or markdown.",
            autocompletion=_format_words,
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="Where to; - is stdout.")
    ] = "-",
) -> None:
    """Write results in the formats that other benchmark tools and CI services read."""
    # Inside: these import msgspec, which --help must not.
    import sys

    from flashbench.cli.say import say
    from flashbench.cli.streams import check_output
    from flashbench.cli.values import parse_choices
    from flashbench.errors import ResultsError
    from flashbench.report.layout import statuses_line
    from flashbench.report.markdown import results_markdown
    from flashbench.results.export import FORMATS, Format
    from flashbench.results.hosts import each_host
    from flashbench.results.store import load, load_measurements, one_host, write_whole

    formats = {
        **FORMATS,
        "markdown": Format(results_markdown, lambda row: True, takes_training=True, takes_hosts=True),
    }
    chosen = parse_choices("--format", format_, formats, many=False)[0]
    check_output(output)
    file = load(results) if chosen.takes_training else load_measurements(results)
    if not chosen.takes_hosts:
        file = one_host(
            file, results, f"{format_} has one entry for each measurement, and no place for its host"
        )
    measurements = [row for each in each_host(file) for row in each.measurements]
    if not file.rows:
        raise ResultsError(f"{results} has no measurements")
    left_out = [row for row in measurements if not chosen.takes(row)]
    if left_out and len(left_out) == len(measurements):
        raise ResultsError(
            f"{results} has nothing that {format_} has a place for: {statuses_line(left_out)}",
            hint="csv and markdown have a place for every measurement",
        )
    content = chosen.render(file).encode()
    if output == "-":
        # As bytes: a text stream may change line ends, or lack a character of a name.
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        write_whole(output, content)
    if not file.complete:
        say(f"{results} is unfinished: more was asked for than it holds")
    if left_out:
        of = f"{len(left_out)} of {len(measurements)} measurements"
        say(f"left out {of}, for which {format_} has no place: {statuses_line(left_out)}")
