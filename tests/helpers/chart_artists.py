"""What a chart drew."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D


def lines(axes: Axes) -> dict[str, Line2D]:
    """The lines by label. Guides, peaks and roofs have a label that begins with an underscore."""
    return {str(line.get_label()): line for line in axes.lines}


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
