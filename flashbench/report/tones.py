"""Cells and lines of a report: each is a text with a tone. How a tone looks is decided here.

Reports pass these values on; the terminal, Markdown and the page each draw them their own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

from rich.text import Text

from flashbench.report.colours import HEAT
from flashbench.results.record import Status, Verdict


class Tone(Enum):
    """What a text says beside its words."""

    PLAIN = auto()
    QUIET = auto()  # explains, or stands for a missing figure
    STRONG = auto()
    GOOD = auto()
    DOUBTFUL = auto()
    BAD = auto()
    # Cells of a heatmap: the fastest, then from fast to slow.
    BEST = auto()
    HEAT_0 = auto()
    HEAT_1 = auto()
    HEAT_2 = auto()
    HEAT_3 = auto()
    HEAT_4 = auto()


HEAT_TONES = (Tone.HEAT_0, Tone.HEAT_1, Tone.HEAT_2, Tone.HEAT_3, Tone.HEAT_4)
# In a terminal. Black, because the colours behind it are light.
STYLES: Mapping[Tone, str] = {
    Tone.PLAIN: "",
    Tone.QUIET: "dim",
    Tone.STRONG: "bold",
    Tone.GOOD: "green",
    Tone.DOUBTFUL: "yellow",
    Tone.BAD: "bold red",
    Tone.BEST: f"bold black on {HEAT[0].light}",
    **{tone: f"black on {colour.light}" for tone, colour in zip(HEAT_TONES, HEAT, strict=True)},
}
# In Markdown, which has no colours.
BOLD = frozenset({Tone.STRONG, Tone.BAD, Tone.BEST})
# On the page: the class of a table's cell.
CLASSES: Mapping[Tone, str] = {Tone.GOOD: "good", Tone.DOUBTFUL: "doubtful", Tone.BAD: "bad"}
# The worst first.
VERDICT_TONES: Mapping[Verdict, Tone] = {
    "regressed": Tone.BAD,
    "failed": Tone.BAD,
    "inconclusive": Tone.DOUBTFUL,
    "a_faster": Tone.STRONG,
    "same": Tone.PLAIN,
    "b_faster": Tone.STRONG,
    "improved": Tone.GOOD,
}
FLAG = Text("!", style="bold yellow")


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    tone: Tone = Tone.PLAIN
    brief: str | None = None  # a shorter text for narrow tables
    flagged: bool = False  # ends with the flag

    def __str__(self) -> str:
        return f"{self.text}{FLAG}" if self.flagged else self.text

    def __rich__(self) -> Text:
        text = Text(self.text, style=STYLES[self.tone])
        return text.append_text(FLAG) if self.flagged else text


class Line(NamedTuple):
    """A line of its own beside the tables."""

    text: str
    tone: Tone = Tone.QUIET
    flagged: bool = False  # begins with the flag

    def __str__(self) -> str:
        return f"{FLAG} {self.text}" if self.flagged else self.text

    def __rich__(self) -> Text:
        style = STYLES[self.tone]
        return Text.assemble(FLAG, (f" {self.text}", style)) if self.flagged else Text(self.text, style=style)


NOTHING = Cell("-", Tone.QUIET)


def status_tone(status: Status) -> Tone:
    """The tone of a status that is not ok: doubtful if nothing was tried."""
    return Tone.DOUBTFUL if status in ("unsupported", "too_large") else Tone.BAD
