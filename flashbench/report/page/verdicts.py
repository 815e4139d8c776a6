"""Verdict tables: every duel of a file, B against A, with all figures behind its verdict."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.blocks import block_word, with_block
from flashbench.analysis.row_words import arm_word, kind_line, place_axis, place_word
from flashbench.report.charts.series import Source
from flashbench.report.duel import verdict_word
from flashbench.report.layout import AXES
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.tones import VERDICT_TONES, Cell
from flashbench.report.units import format_known_times, format_p
from flashbench.results.record import AnyRow, Duel, Measurement, Results

_HEADINGS = (
    Heading("A", words=True),
    Heading("B", words=True),
    Heading("Verdict", words=True),
    Heading("B / A"),
    Heading("Interval"),
    Heading("p"),
    Heading("p, Holm"),
    Heading("Threshold"),
    Heading("Rounds"),
    Heading("A led"),
    Heading("Looks"),
    Heading("A, ms"),
    Heading("B, ms"),
    Heading("Reason", words=True),
)


def verdict_tables(sources: Sequence[Source]) -> list[Table]:
    """One table for each file with duels."""
    return [
        _table(f"verdicts-{number}", source, several=len(sources) > 1)
        for number, source in enumerate(sources, start=1)
        if source.results.duels
    ]


def _table(id_: str, source: Source, *, several: bool) -> Table:
    results = source.results
    name = f", {source.name}" if several else ""
    first = results.rows[results.duels[0].a]
    return make_table(
        id_,
        f"B against A{name}",
        [Heading("Problem", words=True), Heading(AXES[place_axis(first)].heading), *_HEADINGS],
        [_cells(results, duel) for duel in results.duels],
        notes=_notes(results),
    )


def _cells(results: Results, duel: Duel) -> list[Cell | str]:
    a, b = results.rows[duel.a], results.rows[duel.b]
    return [
        kind_line(b),
        place_word(b),
        _side(a),
        _side(b),
        Cell(verdict_word(results, duel), VERDICT_TONES[duel.verdict]),
        "" if duel.ratio is None else f"{duel.ratio:.3f}",
        "" if duel.low is None or duel.high is None else f"{duel.low:.3f} to {duel.high:.3f}",
        "" if duel.p_value is None else format_p(duel.p_value),
        "" if duel.p_holm is None else format_p(duel.p_holm),
        f"{100 * duel.threshold:g} %",
        str(len(duel.orders)),
        str(duel.orders.count("ab")),
        str(duel.looks),
        *format_known_times([row.time.median_ns if row.time else None for row in (a, b)]),
        duel.reason or "",
    ]


def _side(row: AnyRow) -> str:
    return with_block(arm_word(row), block_word(row)) if isinstance(row, Measurement) else arm_word(row)


def _notes(results: Results) -> list[str]:
    confidences = sorted({duel.confidence for duel in results.duels if duel.confidence is not None})
    shares = " and ".join(f"{100 * confidence:.1f} %" for confidence in confidences)
    notes = [
        "B / A is the exponential of the pseudo-median over rounds of the logarithm of B's time over A's: "
        "above 1, B is slower. Each round is a fresh process a side, in random order or, of whole models, in "
        "turns. p is of the exact "
        "sign-flip test of no difference, p, Holm the same adjusted for all duels of the file; a change "
        "up to the threshold counts as none." + (f" Intervals are at {shares}." if shares else "")
    ]
    sides = [(side.upper(), results.processes[side]) for side in ("a", "b") if side in results.processes]
    notes += [
        f"{side}: Python {process.python_version} ({process.python}), flashbench {process.flashbench_version}"
        for side, process in sides
    ]
    return notes
