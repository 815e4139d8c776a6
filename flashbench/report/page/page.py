"""The page: all parts in order, put into the template. It is one file and loads nothing from a network."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from flashbench.errors import ConfigError
from flashbench.report.charts.series import Source, make_panels
from flashbench.report.charts.whole_models import model_panels
from flashbench.report.colours import COLOURS
from flashbench.report.layout import study_title
from flashbench.report.page.documented import documented_tables
from flashbench.report.page.figures import chart_sections
from flashbench.report.page.hosts import Hosts
from flashbench.report.page.measured import measured_tables
from flashbench.report.page.models_figures import model_sections
from flashbench.report.page.models_measured import model_tables
from flashbench.report.page.models_summary import faster_tables
from flashbench.report.page.settings import machine_table, process_tables, run_table
from flashbench.report.page.summary import ratio_tables, summary
from flashbench.report.page.verdicts import verdict_tables
from flashbench.report.tones import CLASSES
from flashbench.results.documented import documented_results
from flashbench.results.one_line import one_line
from flashbench.results.record import Results

# With at most this many rows, the tables of everything measured are open at the start.
OPEN_ROWS = 40


def name_sources(paths: Sequence[str], results: Sequence[Results]) -> list[Source]:
    """Each file under its bare name, or under its path if two bare names are the same.

    Raises ConfigError when a file is given twice.
    """
    for path, count in Counter(paths).items():
        if count > 1:
            raise ConfigError(f"{path} is given {count} times: once is enough")
    stems = [Path(path).stem for path in paths]
    names = [path if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems, strict=True)]
    return [Source(one_line(name), result) for name, result in zip(names, results, strict=True)]


def report_page(sources: Sequence[Source]) -> str:
    """The HTML of a report on these files.

    Documented figures stand beside measurements. A file with documented figures replaces the built-in ones.
    Each host of a file stands on the page as a file of its own would.
    """
    of_runs = [source for source in sources if source.results.kind != "documented"]
    hosts = Hosts(of_runs)
    own, shown = hosts.sources, hosts.shown
    given = [source.results for source in sources if source.results.kind == "documented"]
    panels, of_models = make_panels(shown), model_panels(shown)
    measured, models = measured_tables(own), model_tables(own)
    sections = [*chart_sections(shown, panels, measured), *model_sections(shown, of_models, models)]
    tables = [*measured.values(), *models.values()]
    # Documented figures stand beside files of one machine; beside each of many hosts they would be no news.
    beside = [source for source in of_runs if not source.results.hosts]
    with_documented = given or any(source.results.measurements for source in beside)
    return (
        _environment()
        .get_template("template.html.jinja")
        .render(
            title=_title(of_runs),
            host_words=hosts.words,
            host_verdicts=hosts.verdicts,
            summary=summary(shown),
            ratios=[*ratio_tables(shown), *faster_tables(shown)],
            warnings=_warnings(of_runs, own),
            several=len(own) > 1,
            verdicts=verdict_tables(own),
            sections=sections,
            single=len({chart.table_id for section in sections for chart in section.charts}) <= 1,
            documented=documented_tables(given[0] if given else documented_results(), beside or shown)
            if with_documented
            else [],
            measured=tables,
            open_measured=sum(len(table.rows) for table in tables) <= OPEN_ROWS,
            settings=[machine_table(own), run_table(own), *process_tables(own)] if own else [],
            colours=COLOURS,
            tone_classes=defaultdict(str, CLASSES),
        )
    )


def _warnings(of_runs: Sequence[Source], own: Sequence[Source]) -> list[tuple[str, str]]:
    """Those of the files, and those of their hosts, each with the name of its source."""
    named = [*(file for file in of_runs if file.results.hosts), *own]
    return [(source.name, warning) for source in named for warning in source.results.warnings]


def _title(sources: Sequence[Source]) -> str:
    """The title of each study, or the name of its file."""
    titles = [study_title(source.results) or source.name for source in sources]
    return ", ".join(dict.fromkeys(titles)) or "The documented figures"


def _environment() -> Environment:
    def read(name: str) -> str:
        return files("flashbench.report.page").joinpath(name).read_text(encoding="utf-8")

    # Everything from a file is text. Only the result of `inline_svg` is markup.
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    return Environment(loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, **options)
