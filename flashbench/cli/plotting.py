"""A chart beside a table: refused before anything runs, written after it."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.cli.streams import same_file
from flashbench.errors import ConfigError
from flashbench.report.charts import chart_kind, require_plot_extra
from flashbench.results.record import Results
from flashbench.results.store import check_writable, write_whole


def check_plot(path: str, *, others: Sequence[str | None]) -> None:
    """Raise FlashbenchError now if the chart could not be drawn or not be written there.

    `others` are the places of the other files of the run.
    """
    chart_kind("--plot", path)
    if any(other is not None and same_file(path, other) for other in others):
        raise ConfigError(f"--plot is {path}, where the results go: give it a name of its own")
    require_plot_extra()
    check_writable(path)


def write_plot(path: str, results: Results) -> bool:
    """Whether there was anything to draw; then the chart is there."""
    from flashbench.report.charts.overview import overview_chart  # here: the extra may be missing
    from flashbench.report.charts.style import chart_bytes

    figure = overview_chart(results)
    if figure is not None:
        write_whole(path, chart_bytes(figure, chart_kind("--plot", path)))
    return figure is not None
