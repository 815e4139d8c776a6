"""A duel as a table, for a terminal and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.problem_words import length_word
from flashbench.report.escapes import escape_markdown
from flashbench.report.layout import (
    NOTHING,
    STATUS_WORDS,
    VERDICT_STYLES,
    Grid,
    group_key,
    heading,
    markdown_table,
    problem_line,
    verdict_counts,
)
from flashbench.report.units import format_p, format_times, format_wide_ratio
from flashbench.results.record import Duel, Measurement, Results, Verdict

_HEADERS = ("Seq\nLen", "A\n(ms)", "B\n(ms)", "B / A", "interval", "p", "Rounds", "Verdict")


def duel_report(results: Results) -> RenderableType:
    """The duel for a terminal: who fought, a table per kind of problem, what was not decided and why."""
    parts: list[RenderableType] = [*heading(results), *(Text(line, style="dim") for line in _sides(results))]
    for title, duels in _groups(results).items():
        grid = Grid(*_HEADERS, left=[len(_HEADERS) - 1])
        for duel, cells in zip(duels, _cells(results, duels), strict=True):
            texts = [Text(cell) if cell else NOTHING for cell in cells]
            texts[-1].stylize(VERDICT_STYLES[duel.verdict])
            grid.add_row(*texts)
        parts += [Text(), Text(title, style="bold"), grid]
    return Group(*parts, Text(), *map(Text, _afterword(results)))


def duel_markdown(results: Results) -> str:
    """The same as GitHub renders it."""
    blocks = [
        f"**{escape_markdown(_summary(results))}**",
        "\n".join(f"- {escape_markdown(line)}" for line in _sides(results)),
    ]
    for title, duels in _groups(results).items():
        blocks += [escape_markdown(f"{title}:"), markdown_table(_HEADERS, _cells(results, duels))]
    reasons = _reasons(results)
    if reasons:
        blocks.append("\n".join(f"- {escape_markdown(line)}" for line in reasons))
    return "\n\n".join(blocks) + "\n"


def duel_title(results: Results) -> str:
    """`B torch-flash against A flash`, for an annotation."""
    a, b = (results.config[side]["engine"] for side in ("a", "b"))
    return f"B {b} against A {a}"


def duel_line(results: Results, duel: Duel) -> str:
    """One duel in one line, for an annotation."""
    row = results.measurements[duel.b]
    change = "" if duel.ratio is None else f" {format_wide_ratio(duel.ratio)} ({_interval(duel)})"
    if duel.verdict == "failed" and duel.reason is not None:
        change = f": {duel.reason}"
    return (
        f"{problem_line(group_key(row))}, N={length_word(row.problem)}: {verdict_word(results, duel)}{change}"
    )


def verdict_word(results: Results, duel: Duel) -> str:
    """`same`, or of two engines `flash faster`."""
    return verdict_words(results, duel).get(duel.verdict, duel.verdict)


def verdict_words(results: Results, duel: Duel) -> Mapping[Verdict, str]:
    """Of those verdicts that name an engine, for the sides of this duel."""
    a, b = (results.measurements[place].engine for place in (duel.a, duel.b))
    return {"a_faster": f"{a} faster", "b_faster": f"{b} faster"}


def duel_counts(results: Results) -> str:
    """`1 flash faster, 3 same`, of a file with duels."""
    return verdict_counts((duel.verdict for duel in results.duels), verdict_words(results, results.duels[0]))


def _groups(results: Results) -> dict[str, list[Duel]]:
    groups: dict[str, list[Duel]] = {}
    for duel in results.duels:
        groups.setdefault(problem_line(group_key(results.measurements[duel.a])), []).append(duel)
    return groups


def _cells(results: Results, duels: Sequence[Duel]) -> list[list[str]]:
    pairs = [(results.measurements[duel.a], results.measurements[duel.b]) for duel in duels]
    timed = iter(format_times([row.time.median_ns for pair in pairs for row in pair if row.time]))
    words = [[next(timed) if row.time else _status(row) for row in pair] for pair in pairs]
    return [
        [
            length_word(pair[0].problem),
            *times,
            "" if duel.ratio is None else format_wide_ratio(duel.ratio),
            _interval(duel),
            "" if duel.p_holm is None else format_p(duel.p_holm),
            str(len(duel.orders)),
            verdict_word(results, duel),
        ]
        for duel, pair, times in zip(duels, pairs, words, strict=True)
    ]


def _status(row: Measurement) -> str:
    return STATUS_WORDS.get(row.status, "")


def _interval(duel: Duel) -> str:
    return "" if duel.low is None or duel.high is None else f"{duel.low:.3f}-{duel.high:.3f}"


def _sides(results: Results) -> list[str]:
    lines = []
    for side in ("a", "b"):
        words = [results.config[side]["engine"]]
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
        lines.append(f"p: exact sign-flip test, adjusted for {len(results.duels)} problems (Holm)")
    return lines


def _afterword(results: Results) -> list[str]:
    return [*_reasons(results), _summary(results)]


def _reasons(results: Results) -> list[str]:
    lines = []
    for duel in results.duels:
        row = results.measurements[duel.a]
        if duel.reason is not None and duel.verdict != "failed":  # whose sides say why, below
            lines.append(f"N={length_word(row.problem)}: {verdict_word(results, duel)}: {duel.reason}")
        for side, place in (("A", duel.a), ("B", duel.b)):
            found = results.measurements[place]
            if found.reason is not None:
                lines.append(f"N={length_word(row.problem)}: {side} {found.status}: {found.reason}")
    return lines


def _summary(results: Results) -> str:
    threshold = 100 * float(results.config["threshold"])
    return f"{len(results.duels)} compared, allowing {threshold:g}%: {duel_counts(results)}"
