"""The colours of charts, page and terminal, without Matplotlib: a terminal report must not import it."""

from __future__ import annotations

from typing import NamedTuple


class Colour(NamedTuple):
    """A colour of the page. Charts are drawn in `light`; in the page it becomes `var(--name)`."""

    name: str
    light: str
    dark: str


PAPER = Colour("paper", "#ffffff", "#14181c")
INK = Colour("ink", "#1b2026", "#e8ecef")
MUTED = Colour("muted", "#59636d", "#a3adb6")
GRID = Colour("grid", "#dde2e6", "#2c343b")
# Text in any of these is readable on paper (WCAG AA, 4.5 to 1). The hues of the first four stay apart
# for every kind of colour blindness. Markers and dashes separate all eight without any hue.
SERIES = (
    Colour("series-0", "#0065a3", "#5cb3f0"),
    Colour("series-1", "#b5480b", "#ff9057"),
    Colour("series-2", "#00734f", "#3ccf9c"),
    Colour("series-3", "#93327e", "#e592d0"),
    Colour("series-4", "#7d6200", "#e3c33a"),
    Colour("series-5", "#4a5560", "#b4bec8"),
    Colour("series-6", "#007a96", "#52d3e8"),
    Colour("series-7", "#a3182f", "#ff8593"),
)
HEAT = (
    Colour("heat-0", "#8fd19e", "#1e6b3a"),
    Colour("heat-1", "#cbe8b5", "#3c5c2a"),
    Colour("heat-2", "#f5ecae", "#5f5716"),
    Colour("heat-3", "#f6cf9b", "#6e4614"),
    Colour("heat-4", "#efa79d", "#7a2f2a"),
)
COLOURS = (PAPER, INK, MUTED, GRID, *SERIES, *HEAT)
