"""A comparison as tables for a terminal, as Markdown for a pull request, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.blocks import block_label
from flashbench.analysis.compare import Comparison, Pair
from flashbench.analysis.problem_words import length_word
from flashbench.report.escapes import escape_markdown
from flashbench.report.layout import (
    NOTHING,
    STATUS_WORDS,
    VERDICT_STYLES,
    Grid,
    group_key,
    markdown_table,
    problem_line,
    verdict_counts,
)
from flashbench.report.units import format_bytes, format_p, format_times, format_wide_ratio
from flashbench.results.record import Measurement
from flashbench.texts import to_json

_HEADERS = (
    "Seq\nLen",
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


class _Table(NamedTuple):
    """One engine, direction and kind of problem."""

    title: str
    rows: list[tuple[list[str], Pair]]

    def reasons(self) -> list[str]:
        """What the figures do not show, a line each with the rows that it holds for."""
        places: dict[tuple[str, str], list[str]] = {}
        for cells, pair in self.rows:
            if pair.note is not None:
                places.setdefault((pair.verdict, pair.note), []).append(cells[0])
        return [f"{', '.join(where)}: {verdict}: {note}" for (verdict, note), where in places.items()]


def compare_report(comparison: Comparison) -> RenderableType:
    """The comparison for a terminal."""
    parts: list[RenderableType] = [Text(line, style="dim") for line in _preface(comparison)]
    for table in _tables(comparison.pairs):
        grid = Grid(*_HEADERS, left=[len(_HEADERS) - 1])
        for cells, pair in table.rows:
            texts = [Text(cell) if cell else NOTHING for cell in cells]
            texts[-1].stylize(VERDICT_STYLES[pair.verdict])
            grid.add_row(*texts)
        reasons = [Text(line, style="dim") for line in table.reasons()]
        parts += [Text(), Text(table.title, style="bold"), grid, *reasons]
    parts += [Text(), *map(Text, _afterword(comparison))]
    return Group(*parts)


def compare_markdown(comparison: Comparison) -> str:
    """The comparison as GitHub renders it."""
    blocks = [
        f"**{_summary(comparison)}**",
        "\n".join(f"- {escape_markdown(line)}" for line in _preface(comparison)),
    ]
    for table in _tables(comparison.pairs):
        rows: list[list[str | Text]] = [
            [*cells[:-1], Text(cells[-1], style="bold" if pair.verdict in ("regressed", "failed") else "")]
            for cells, pair in table.rows
        ]
        blocks += [escape_markdown(f"{table.title}:"), markdown_table(_HEADERS, rows)]
        reasons = "\n".join(f"- {escape_markdown(line)}" for line in table.reasons())
        blocks += [reasons] if reasons else []
    missing = _missing_lines(comparison)
    if missing:
        blocks.append("\n".join(f"- {escape_markdown(line)}" for line in missing))
    return "\n\n".join(blocks) + "\n"


def compare_json(comparison: Comparison) -> str:
    """The comparison as it is, with both measurements of each pair."""
    document = msgspec.to_builtins(comparison) | {"exit_code": comparison.exit_code}
    return msgspec.json.format(to_json(document), indent=2).decode() + "\n"


def _tables(pairs: Sequence[Pair]) -> list[_Table]:
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        words = [pair.new.engine, problem_line(group_key(pair.new)), _blocks(pair)]
        groups.setdefault(", ".join(filter(None, words)), []).append(pair)
    return [_Table(title, _rows(group)) for title, group in groups.items()]


def _blocks(pair: Pair) -> str:
    """The blocks asked for, of both sides where they differ."""
    words = [block_label(row) for row in (pair.base, pair.new)]
    if words[0] == words[1]:
        return f"block {words[0]}" if words[0] else ""
    return f"block {words[0] or 'none'} against {words[1] or 'none'}"


def _rows(pairs: Sequence[Pair]) -> list[tuple[list[str], Pair]]:
    both = [row for pair in pairs for row in (pair.base, pair.new)]
    timed = iter(format_times([row.time.median_ns for row in both if row.time]))
    times = [next(timed) if row.time else STATUS_WORDS.get(row.status, "") for row in both]
    memory = [format_bytes(row.memory.workspace_peak_bytes) if row.memory else "" for row in both]
    return [
        (
            [
                length_word(pair.new.problem),
                times[2 * index],
                times[2 * index + 1],
                _ratio(pair.time_ratio),
                _interval(pair),
                "" if pair.p_holm is None else format_p(pair.p_holm),
                memory[2 * index],
                memory[2 * index + 1],
                _ratio(pair.memory_ratio),
                pair.verdict,
            ],
            pair,
        )
        for index, pair in enumerate(pairs)
    ]


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else format_wide_ratio(ratio)


def _interval(pair: Pair) -> str:
    return (
        "" if pair.time_low is None or pair.time_high is None else f"{pair.time_low:.2f}-{pair.time_high:.2f}"
    )


def _preface(comparison: Comparison) -> list[str]:
    lines = [f"base: {comparison.base_name}", f"new:  {comparison.new_name}"]
    lines.append("ratios are new / base; p: Mann-Whitney over processes, adjusted (Holm)")
    lines += [f"not comparable: {one.name}: {one.base} / {one.new}" for one in comparison.differences]
    return lines + [f"note: {remark}" for remark in comparison.remarks]


def _afterword(comparison: Comparison) -> list[str]:
    return [*_missing_lines(comparison), _summary(comparison)]


def _summary(comparison: Comparison) -> str:
    listed = verdict_counts(pair.verdict for pair in comparison.pairs)
    return f"{len(comparison.pairs)} compared, allowing {comparison.fail_over * 100:g}%: {listed}"


def _missing_lines(comparison: Comparison) -> list[str]:
    sides = (("base", comparison.only_in_base), ("new", comparison.only_in_new))
    return [f"only in {side}: {words}" for side, rows in sides for words in _listed(rows)]


def _listed(rows: Sequence[Measurement]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        block = f"block {block_label(row)}" if block_label(row) else ""
        words = [row.engine, problem_line(group_key(row)), block]
        groups.setdefault(", ".join(filter(None, words)), []).append(length_word(row.problem))
    return [f"{words}: {', '.join(lengths)}" for words, lengths in groups.items()]
