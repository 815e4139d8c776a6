"""Tests of inference as tables, one for each model and dtype; then the longest contexts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from flashbench.analysis.groups import grouped
from flashbench.analysis.inference import Rate, longest_context, tokens_per_second
from flashbench.analysis.whole_models import amdahl_bound, base_of, measured_ratio
from flashbench.analysis.words import NO_REASON, counted
from flashbench.measure.statistics import CONFIDENCE
from flashbench.report.grid import Grid
from flashbench.report.layout import NO_POINT, heading
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.report.units import format_bytes, format_rate
from flashbench.report.whole_models import parts_markdown, ratio_cell, status_cell, status_word
from flashbench.results.record import InferenceTest, Results

_BLANK = Line("")
_LEGEND = (
    "tokens/s: of all sequences; from - to: an interval of the median over processes, {confidence}. First: "
    "until the first token, that is a whole prefill. Attn: attention's share of the time. x sdpa: how many "
    "times faster than with Transformers' sdpa; at most: Amdahl's law, by sdpa's share and the time of both "
    "attentions. Peak: of one test, beyond weights and cache."
)


def infer_report(results: Results) -> RenderableType:
    """Every test, one table for each model and dtype; below them what follows from them."""
    return Group(*heading(results), *_parts(results))


def infer_markdown(results: Results) -> str:
    """The same as GitHub renders it, without a heading."""
    return parts_markdown(_parts(results))


def _parts(results: Results) -> list[Line | Grid]:
    if not results.inference:
        return [Line(NO_POINT, Tone.PLAIN)]
    parts: list[Line | Grid] = []
    for rows in grouped(results.inference, lambda row: (row.model, row.dtype)).values():
        parts += [_BLANK, Line(_title(rows), Tone.STRONG)]
        if any(row.time or row.peak_bytes for row in rows):
            parts.append(_table(rows))
        parts += _reasons(rows)
    parts += [_BLANK, Line(_LEGEND.format(confidence=confidence_words(results.inference)))]
    budget = results.config.get("memory_budget_bytes") or results.machine.memory_bytes
    if budget is not None:
        parts += _longest(results.inference, int(budget))
    return parts


def _title(rows: Sequence[InferenceTest]) -> str:
    """`llama-160m: 152,980,224 parameters, float32, 2 threads`."""
    row = next((row for row in rows if row.parameters is not None), rows[0])
    words = [f"{row.parameters:,} parameters" if row.parameters else "", row.dtype]
    words += [counted(row.batch, "sequence") if row.batch > 1 else ""]
    words += [counted(row.threads, "thread") if row.threads else ""]
    return f"{row.model}: {', '.join(filter(None, words))}"


def _table(rows: Sequence[InferenceTest]) -> Grid:
    grid = Grid(
        "Test", "Depth", "Attention", "Tokens\n/s", "from - to", "First\n(ms)", "Attn\n(%)", "x\nsdpa",
        "at\nmost", "Peak\n(MiB)",
        left=[0, 2],
    )  # fmt: skip
    for index, row in enumerate(rows):
        base = base_of(row, rows)
        place = row.test, row.tokens, row.depth
        first = index == 0 or (rows[index - 1].test, rows[index - 1].tokens, rows[index - 1].depth) != place
        after = rows[index + 1] if index + 1 < len(rows) else None
        ends = after is not None and (after.test, after.tokens, after.depth) != place
        rate = tokens_per_second(row)
        grid.add_row(
            f"{row.test} {row.tokens}" if first else "",
            str(row.depth) if first else "",
            row.attention,
            _rate_cell(row, rate),
            f"{format_rate(rate.low)} - {format_rate(rate.high)}" if rate else NOTHING,
            f"{row.time.median_ns / 1e6:.0f}" if row.time and row.test == "prefill" else NOTHING,
            f"{100 * row.attention_share:.0f}" if row.attention_share is not None else NOTHING,
            ratio_cell(measured_ratio(row, base)),
            ratio_cell(amdahl_bound(row, base)),
            f"{row.peak_bytes / 1024**2:.1f}" if row.peak_bytes is not None else NOTHING,
            last=ends,
        )
    return grid


def _rate_cell(row: InferenceTest, rate: Rate | None) -> str | Cell:
    if row.status not in ("ok", "wrong"):
        return status_cell(row.status)
    return NOTHING if rate is None else format_rate(rate.median)


def confidence_words(tests: Sequence[InferenceTest]) -> str:
    """`at 95 % confidence`, or with fewer than six processes less, and why."""
    rates = [rate for test in tests if (rate := tokens_per_second(test)) is not None]
    least = min((rate.confidence for rate in rates), default=CONFIDENCE)
    if least == 0:
        return "of which one round has none: 95 % confidence needs 6 or more"
    too_few = "" if least >= CONFIDENCE else ", as 95 % needs 6 rounds or more"
    return f"at {100 * least:.0f} % confidence{too_few}"


def _reasons(rows: Sequence[InferenceTest]) -> list[Line]:
    """One line for each status and reason, and for each note."""
    lines = []
    failed = grouped(
        (row for row in rows if row.status != "ok"), lambda row: (row.attention, row.status, row.reason)
    )
    for (attention, status, reason), where in failed.items():
        tests = "" if len(where) > 1 else f" at {where[0].test} {where[0].tokens}, depth {where[0].depth}"
        lines.append(Line(f"{attention}{tests}: {status_word(status)}: {reason or NO_REASON}"))
    for note, where in grouped(rows, lambda row: row.note).items():
        if note is not None:
            lines.append(Line(f"{', '.join(dict.fromkeys(row.attention for row in where))}: {note}"))
    if len({row.attention for row in rows if row.compared_tokens}) > 1 and not any(
        row.status == "wrong" for row in rows
    ):
        lines.append(
            Line("every attention chose the same tokens after the same prompt, but where rounding decides")
        )
    return lines


def _longest(tests: Sequence[InferenceTest], budget_bytes: int) -> list[Line | Grid]:
    """The longest context of each model and attention within the budget."""
    prefills = [test for test in tests if test.test == "prefill"]
    arms = list(dict.fromkeys(test.attention for test in tests))
    grid, found = Grid("Model", "Dtype", "Prompt", *arms, left=[0, 1]), False
    for (model, dtype, tokens), rows in grouped(
        prefills, lambda row: (row.model, row.dtype, row.tokens)
    ).items():
        lengths = [
            longest_context([row for row in rows if row.attention == arm], budget_bytes) for arm in arms
        ]
        if any(length is not None for length in lengths):
            found = True
            cells = (NOTHING if length is None else f"{length:,}" for length in lengths)
            grid.add_row(model, dtype, str(tokens), *cells)
    if not found:
        return []
    return [
        _BLANK,
        Line(
            f"Longest context that fits into {format_bytes(budget_bytes)}, read in parts of the prompt",
            Tone.STRONG,
        ),
        grid,
    ]
