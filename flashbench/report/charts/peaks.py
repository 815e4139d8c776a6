"""Measured peaks as lines across a chart, each with words that cover nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from flashbench.report.charts.lines import NAME_GAP, Limits, share_of
from flashbench.report.charts.style import FONT_SIZE
from flashbench.report.colours import MUTED

Side = Literal["left", "right"]
PEAK_LABEL = "_peak"  # the underscore keeps the line out of the legend
# As shares of the axes: width of a letter, height of a line of words, its distance from the peak.
LETTER, HEIGHT, DISTANCE = 0.028, 0.065, 0.012
# Distances from the side that words may take to cover nothing, the best first.
SHIFTS = (0.01, 0.15, 0.3, 0.45)


class Peak(NamedTuple):
    """A measured peak, and a remark for its name."""

    gflops: float
    remark: str = ""


def draw_peak(axes: Axes, gflops: float) -> None:
    """A horizontal line for a measured peak."""
    axes.axhline(gflops, color=MUTED.light, linewidth=1.1, linestyle=(0, (4, 2)), label=PEAK_LABEL)


def name_peaks(axes: Axes, limits: Limits, peaks: Sequence[Peak], side: Side) -> None:
    """Each peak's words beside its line. Peaks that are too close share a line of words.

    Call this after everything else is drawn: the words keep clear of it.
    """
    drawn = list(_curves(axes, limits))
    taken: list[Bbox] = []
    for group in _groups(peaks, limits):
        figures = [f"{peak.gflops:.0f}" for peak in group]
        remark = group[0].remark if len(group) == 1 else ""
        words = f"measured peak {' and '.join(dict.fromkeys(figures))}{remark}"
        places = list(
            _places(words, share_of(group[0].gflops, limits.y), share_of(group[-1].gflops, limits.y), side)
        )
        box = next((place for place in places if _is_free(place, drawn, taken)), places[0])
        taken.append(box)
        axes.text(
            box.x0 if side == "left" else box.x1,
            box.y0,
            words,
            transform=axes.transAxes,
            horizontalalignment=side,
            verticalalignment="bottom",
            color=MUTED.light,
            fontsize=FONT_SIZE - 1,
        )


def _groups(peaks: Sequence[Peak], limits: Limits) -> list[list[Peak]]:
    groups: list[list[Peak]] = []
    for peak in sorted(peaks):
        place = share_of(peak.gflops, limits.y)
        if groups and place - share_of(groups[-1][-1].gflops, limits.y) < NAME_GAP:
            groups[-1].append(peak)
        else:
            groups.append([peak])
    return groups


def _places(words: str, lowest: float, highest: float, side: Side) -> Iterator[Bbox]:
    """Places for the words, the best first: above the lines, below them, then farther away."""
    width = min(1 - 2 * SHIFTS[0], LETTER * len(words))
    for away in (0.0, HEIGHT, 2 * HEIGHT, 3 * HEIGHT):
        for low in (highest + DISTANCE + away, lowest - DISTANCE - HEIGHT - away):
            for shift in SHIFTS:
                left = shift if side == "left" else 1 - shift - width
                if SHIFTS[0] <= left + 1e-9 and left + width < 1:
                    yield Bbox([[left, low], [left + width, low + HEIGHT]])


def _curves(axes: Axes, limits: Limits) -> Iterator[Path]:
    """The drawn lines, in shares of the axes."""
    for line in axes.lines:
        xs, ys = (np.asarray(values, dtype=float) for values in (line.get_xdata(), line.get_ydata()))
        across = [share_of(x, limits.x) for x in xs] if line.get_label() != PEAK_LABEL else xs
        points = [*zip(across, [share_of(y, limits.y) for y in ys], strict=True)]
        yield Path(points if len(points) > 1 else points * 2)


def _is_free(box: Bbox, drawn: Sequence[Path], taken: Sequence[Bbox]) -> bool:
    if not 0 <= box.y0 < box.y1 <= 1:
        return False
    return not any(box.overlaps(other) for other in taken) and not any(
        curve.intersects_bbox(box, filled=False) for curve in drawn
    )
