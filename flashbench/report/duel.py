"""A duel as a table, for a terminal and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.groups import grouped
from flashbench.analysis.row_words import arm_word, kind_line, place_axis, place_name, place_word
from flashbench.analysis.words import STATUS_WORDS
from flashbench.report.escapes import escape_markdown, markdown_list
from flashbench.report.grid import Grid, Section
from flashbench.report.layout import AXES, heading, verdict_counts
from flashbench.report.tones import NOTHING, VERDICT_TONES, Cell, Line, Tone
from flashbench.report.units import format_p, format_times, format_wide_ratio
from flashbench.results.record import Duel, Results, Side, Verdict

SIDES: tuple[Side, Side] = ("a", "b")
_HEADERS = ("A\n(ms)", "B\n(ms)", "B / A", "interval", "p", "Rounds", "Verdict")


def duel_report(results: Results) -> RenderableType:
    """The duel for a terminal: its sides, a table for each kind of problem, and what is undecided and why."""
    parts: list[RenderableType] = [*heading(results), *map(Line, _sides(results))]
    for section in _sections(results):
        parts += section.parts()
    return Group(*parts, Text(), *map(Text, [*_reasons(results), _summary(results)]))


def duel_markdown(results: Results) -> str:
    """The duel as GitHub renders it."""
    blocks = [f"**{escape_markdown(_summary(results))}**", markdown_list(_sides(results))]
    for section in _sections(results, with_tones=False):
        blocks += [escape_markdown(f"{section.title}:"), section.grid.markdown()]
    blocks.append(markdown_list(_reasons(results)))
    return "\n\n".join(filter(None, blocks)) + "\n"


def duel_title(results: Results) -> str:
    """`B torch-flash against A flash`, for an annotation."""
    a, b = (contestant_word(results, side) for side in SIDES)
    return f"B {b} against A {a}"


def contestant_word(results: Results, side: Side) -> str:
    """`flash`, or `flash (amx)` if the side has a path of its own."""
    config = results.config[side]
    path = config.get("path")  # older files have none
    return f"{config['engine']} ({path})" if path else str(config["engine"])


def duel_line(results: Results, duel: Duel) -> str:
    """One duel in one line, for an annotation."""
    row = results.rows[duel.b]
    change = "" if duel.ratio is None else f" {format_wide_ratio(duel.ratio)} ({_interval(duel)})"
    if duel.verdict == "failed" and duel.reason is not None:
        change = f": {duel.reason}"
    return f"{kind_line(row)}, {place_name(row)}: {verdict_word(results, duel)}{change}"


def verdict_word(results: Results, duel: Duel) -> str:
    """`same`; between two engines `flash faster`."""
    return verdict_words(results, duel).get(duel.verdict, duel.verdict)


def verdict_words(results: Results, duel: Duel) -> Mapping[Verdict, str]:
    """Words for the verdicts that name an engine of this duel."""
    a, b = (arm_word(results.rows[place]) for place in (duel.a, duel.b))
    return {"a_faster": f"{a} faster", "b_faster": f"{b} faster"}


def duel_counts(results: Results) -> str:
    """`1 flash faster, 3 same`. The file must have a duel."""
    return verdict_counts((duel.verdict for duel in results.duels), verdict_words(results, results.duels[0]))


def _sections(results: Results, *, with_tones: bool = True) -> list[Section]:
    """A table for each kind of problem. with_tones: for the terminal; Markdown has no verdict in bold."""
    kinds = grouped(results.duels, lambda duel: kind_line(results.rows[duel.a]))
    return [Section(title, _grid(results, duels, with_tones)) for title, duels in kinds.items()]


def _grid(results: Results, duels: Sequence[Duel], with_tones: bool) -> Grid:
    sides = [results.rows[place] for duel in duels for place in (duel.a, duel.b)]
    timed = iter(format_times([row.time.median_ns for row in sides if row.time]))
    times = iter([next(timed) if row.time else STATUS_WORDS.get(row.status) or NOTHING for row in sides])
    grid = Grid(AXES[place_axis(sides[0])].header, *_HEADERS, left=[len(_HEADERS)])
    for duel in duels:
        grid.add_row(
            place_word(results.rows[duel.a]),
            next(times),
            next(times),
            NOTHING if duel.ratio is None else format_wide_ratio(duel.ratio),
            _interval(duel) or NOTHING,
            NOTHING if duel.p_holm is None else format_p(duel.p_holm),
            str(len(duel.orders)),
            Cell(verdict_word(results, duel), VERDICT_TONES[duel.verdict] if with_tones else Tone.PLAIN),
        )
    return grid


def _interval(duel: Duel) -> str:
    return "" if duel.low is None or duel.high is None else f"{duel.low:.3f}-{duel.high:.3f}"


def _sides(results: Results) -> list[str]:
    lines = []
    for side in SIDES:
        words = [contestant_word(results, side)]
        process = results.processes.get(side)
        if results.config[side]["python"] is not None and process is not None:
            words += [f"flashbench {process.flashbench_version}", process.python]
        lines.append(f"{side.upper()}: {', '.join(words)}")
    confidences = {duel.confidence for duel in results.duels if duel.confidence is not None}
    looks = results.config["looks"]
    for confidence in confidences:
        lines.append(
            f"ratio: pseudo-median over rounds, with its {100 * confidence:.1f}% interval"
            + (f" (5% shared among up to {looks} looks)" if looks > 1 else "")
        )
    if len(results.duels) > 1:
        what = "problems" if results.measurements else "tests"
        lines.append(f"p: exact sign-flip test, adjusted for {len(results.duels)} {what} (Holm)")
    return lines


def _reasons(results: Results) -> list[str]:
    """Each reason once, with the places that it is of. Where a duel failed, its sides have the reasons."""
    reasons: list[tuple[str, str]] = []
    for duel in results.duels:
        place = place_name(results.rows[duel.a])
        if duel.reason is not None and duel.verdict != "failed":
            reasons.append((f"{verdict_word(results, duel)}: {duel.reason}", place))
        for side, row in (("A", results.rows[duel.a]), ("B", results.rows[duel.b])):
            if row.reason is not None:
                reasons.append((f"{side} {row.status}: {row.reason}", place))
    return [
        f"{', '.join(dict.fromkeys(place for _, place in found))}: {reason}"
        for reason, found in grouped(reasons, lambda each: each[0]).items()
    ]


def _summary(results: Results) -> str:
    threshold = 100 * float(results.config["threshold"])
    return f"{len(results.duels)} compared, allowing {threshold:g}%: {duel_counts(results)}"
