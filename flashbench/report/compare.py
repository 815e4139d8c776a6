"""A comparison as tables for a terminal, as Markdown for a pull request, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.compare import Comparison
from flashbench.analysis.groups import grouped
from flashbench.analysis.pairs import Pair
from flashbench.analysis.ratios import peak_bytes
from flashbench.analysis.row_words import (
    arm_word,
    asked_word,
    kind_line,
    place_axis,
    place_word,
    row_title,
)
from flashbench.analysis.words import STATUS_WORDS
from flashbench.report.cells import size_cell
from flashbench.report.escapes import escape_markdown, markdown_list
from flashbench.report.grid import Grid, Section
from flashbench.report.layout import AXES, verdict_counts
from flashbench.report.tones import NOTHING, VERDICT_TONES, Cell, Line
from flashbench.report.units import format_p, format_times, format_wide_ratio
from flashbench.results.record import AnyRow, Measurement
from flashbench.texts import indented_json

_HEADERS = (
    "Base\n(ms)",
    "New\n(ms)",
    "Time\nratio",
    "95%\ninterval",
    "p",
    "Base\nMem",
    "New\nMem",
    "Mem\nratio",
    "Verdict",
)


def compare_report(comparison: Comparison) -> RenderableType:
    """The comparison for a terminal."""
    parts: list[RenderableType] = [*map(Line, _preface(comparison))]
    for section in _sections(comparison.pairs):
        parts += section.parts()
    return Group(*parts, Text(), *map(Text, [*_missing_lines(comparison), _summary(comparison)]))


def compare_markdown(comparison: Comparison) -> str:
    """The comparison as GitHub renders it."""
    blocks = [f"**{_summary(comparison)}**", markdown_list(_preface(comparison))]
    for section in _sections(comparison.pairs):
        blocks += [escape_markdown(f"{section.title}:"), *section.markdown()]
    blocks.append(markdown_list(_missing_lines(comparison)))
    return "\n\n".join(filter(None, blocks)) + "\n"


def compare_json(comparison: Comparison) -> str:
    """The whole comparison, with both measurements of each pair."""
    document = msgspec.to_builtins(comparison) | {"exit_code": comparison.exit_code}
    return indented_json(document).decode()


def _sections(pairs: Sequence[Pair]) -> list[Section]:
    """A table for each engine, kind of problem and block size."""
    return [Section(title, _grid(group), _reasons(group)) for title, group in grouped(pairs, _title).items()]


def _title(pair: Pair) -> str:
    words = (arm_word(pair.new), kind_line(pair.new), _blocks(pair), _paths(pair))
    return ", ".join(filter(None, words))


def _reasons(pairs: Sequence[Pair]) -> list[Line]:
    """What the figures do not show: one line for each verdict and note, with its lengths."""
    noted = grouped((pair for pair in pairs if pair.note is not None), lambda pair: (pair.verdict, pair.note))
    return [
        Line(f"{', '.join(place_word(pair.new) for pair in where)}: {verdict}: {note}")
        for (verdict, note), where in noted.items()
    ]


def _blocks(pair: Pair) -> str:
    """The block sizes asked for, of both sides if they differ."""
    words = [asked_word(row) for row in (pair.base, pair.new)]
    if words[0] == words[1]:
        return f"block {words[0]}" if words[0] else ""
    return f"block {words[0] or 'none'} against {words[1] or 'none'}"


def _paths(pair: Pair) -> str:
    """The paths of both sides if they differ."""
    paths = [row.isa_path if isinstance(row, Measurement) else None for row in (pair.base, pair.new)]
    if None in paths or paths[0] == paths[1]:
        return ""
    return f"path {paths[0]} against {paths[1]}"


def _grid(pairs: Sequence[Pair]) -> Grid:
    both = [row for pair in pairs for row in (pair.base, pair.new)]
    timed = iter(format_times([row.time.median_ns for row in both if row.time]))
    times = iter([next(timed) if row.time else STATUS_WORDS.get(row.status) or NOTHING for row in both])
    grid = Grid(AXES[place_axis(pairs[0].new)].header, *_HEADERS, left=[len(_HEADERS)])
    for pair in pairs:
        grid.add_row(
            place_word(pair.new),
            next(times),
            next(times),
            _ratio(pair.time_ratio),
            _interval(pair),
            NOTHING if pair.p_holm is None else format_p(pair.p_holm),
            *(size_cell(peak_bytes(row)) for row in (pair.base, pair.new)),
            _ratio(pair.memory_ratio),
            Cell(pair.verdict, VERDICT_TONES[pair.verdict]),
        )
    return grid


def _ratio(ratio: float | None) -> str | Cell:
    return NOTHING if ratio is None else format_wide_ratio(ratio)


def _interval(pair: Pair) -> str | Cell:
    if pair.time_low is None or pair.time_high is None:
        return NOTHING
    return f"{pair.time_low:.2f}-{pair.time_high:.2f}"


def _preface(comparison: Comparison) -> list[str]:
    lines = [f"base: {comparison.base_name}", f"new:  {comparison.new_name}"]
    lines.append("ratios are new / base; p: Mann-Whitney over processes, adjusted (Holm)")
    lines += [f"not comparable: {one.name}: {one.base} / {one.new}" for one in comparison.differences]
    return lines + [f"note: {remark}" for remark in comparison.remarks]


def _summary(comparison: Comparison) -> str:
    listed = verdict_counts(pair.verdict for pair in comparison.pairs)
    return f"{len(comparison.pairs)} compared, allowing {comparison.fail_over * 100:g}%: {listed}"


def _missing_lines(comparison: Comparison) -> list[str]:
    sides = (("base", comparison.only_in_base), ("new", comparison.only_in_new))
    return [f"only in {side}: {words}" for side, rows in sides for words in _listed(rows)]


def _listed(rows: Sequence[AnyRow]) -> list[str]:
    return [
        f"{title}: {', '.join(place_word(row) for row in group)}"
        for title, group in grouped(rows, row_title).items()
    ]
