"""The chart of --plot: its file is checked before anything runs and written after the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flashbench.cli.streams import same_file
from flashbench.errors import ConfigError
from flashbench.report.charts import chart_kind, require_plot_extra
from flashbench.results.record import Results
from flashbench.results.store import check_writable, write_whole

NO_CHART = "no chart: nothing was timed"


def check_plot(path: str, *, others: Sequence[str | None]) -> None:
    """Raise FlashbenchError if the chart cannot be drawn, or not be written to that file.

    others: the files of the results.
    """
    chart_kind("--plot", path)
    if any(other is not None and same_file(path, other) for other in others):
        raise ConfigError(f"--plot is {path}, the file of the results: give it a name of its own")
    require_plot_extra()
    check_writable(path)


def write_plot(path: str, results: Results) -> bool:
    """Write the chart if there is anything to draw, and return whether there was.

    Each host of a cluster has a chart of its own: chart.svg becomes chart-node1.svg.
    """
    from flashbench.report.charts.overview import overview_chart  # not at the top: the extra may be missing
    from flashbench.report.charts.style import chart_bytes

    figure = overview_chart(results)
    if figure is not None:
        file = Path(path)
        if results.of_cluster:
            file = file.with_stem(f"{file.stem}-{results.machine.host.replace(os.sep, '_')}")
        write_whole(file, chart_bytes(figure, chart_kind("--plot", path)))
    return figure is not None
