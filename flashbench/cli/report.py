"""`flashbench report`: results files as one page for a browser."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = (
    "Examples:\n"
    "  flashbench report mine.json -o mine.html\n"
    "  flashbench report before.json after.json blocks.json -o report.html\n"
    "  flashbench report tokens.json steps.json  # of flashbench infer and train\n\n"
    "Exit code: 0 written; 2 bad input, no measurement, or the extra is missing: pip install "
    "'flashbench[plot]'."
)


def report(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Results files of any command.", show_default=False),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.html", help="Where to write the page.")
    ] = "report.html",
) -> None:
    """Write one self-contained page of charts, verdicts and tables: no network, light and dark, any width."""
    # Inside: these import NumPy and Matplotlib, which --help must not.
    from pathlib import Path

    from flashbench.analysis.words import counted
    from flashbench.cli.say import say
    from flashbench.cli.streams import check_output
    from flashbench.errors import ConfigError, ResultsError
    from flashbench.report.charts import require_plot_extra
    from flashbench.report.units import format_bytes
    from flashbench.results.store import load, write_whole
    from flashbench.texts import to_utf8

    require_plot_extra()
    if Path(output).suffix not in (".html", ".htm"):  # do not overwrite a results file given by mistake
        raise ConfigError(f"--output takes a name that ends in .html, not {output!r}")
    check_output(output)
    results = [load(path) for path in files]
    if not any(result.rows or result.kind == "machine" for result in results):
        raise ResultsError(
            f"{', '.join(files)}: no measurement in {'it' if len(files) == 1 else 'any of them'}"
        )
    from flashbench.report.page.page import name_sources, report_page

    page = to_utf8(report_page(name_sources(files, results)))
    write_whole(output, page)
    measurements = sum(len(result.rows) for result in results)
    say(
        f"{output}: {format_bytes(len(page))}, {counted(measurements, 'measurement')} "
        f"of {counted(len(files), 'file')}",
        err=False,
    )
