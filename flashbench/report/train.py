"""Training steps as tables, one for each model; then where flash attention pays, and the longest contexts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType

from flashbench.analysis.groups import grouped
from flashbench.analysis.training import LongestContext, longest_context
from flashbench.analysis.whole_models import amdahl_bound, base_attention, base_of, measured_ratio
from flashbench.analysis.words import NO_REASON, counted
from flashbench.integrations.forecasting.models import most_context
from flashbench.report.grid import Grid
from flashbench.report.layout import NO_POINT, heading
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.report.units import format_bytes, format_known_times, format_wide_ratio
from flashbench.report.whole_models import parts_markdown, ratio_cell, status_cell, status_word
from flashbench.results.record import Results, TrainingStep

# Steps whose times differ by less than this are equally fast.
SAME = 0.05
_OUTCOMES = {1: "faster", 0: f"the same within {100 * SAME:g} %", -1: "slower"}
_FLASH = "flash"


def train_report(results: Results) -> RenderableType:
    """Every step, one table for each model; below them what follows from them."""
    return Group(*heading(results), *_parts(results))


def train_markdown(results: Results) -> str:
    """The same as GitHub renders it, without a heading."""
    return parts_markdown(_parts(results))


def _parts(results: Results) -> list[Line | Grid]:
    if not results.training:
        return [Line(NO_POINT, Tone.PLAIN)]
    parts: list[Line | Grid] = []
    for rows in grouped(results.training, lambda row: row.model).values():
        parts += [_BLANK, Line(_title(rows), Tone.STRONG)]
        if any(row.time or row.peak_bytes for row in rows):
            parts.append(_table(rows))
        parts += _reasons(rows)
    parts += [_BLANK, _legend(results.training), _BLANK, *_verdicts(results.training)]
    budget = results.config.get("memory_budget_bytes") or results.machine.memory_bytes
    if budget is not None:
        parts += _longest(results.training, int(budget))
    return parts


_BLANK = Line("")
_LEGEND = (
    "fwd/bwd/opt: forward, backward and optimizer. Peak: of one step beyond the model, its inputs and "
    "gradients. Attn: attention's share of the step. x standard: how many times faster than the step with "
    "standard attention; at most: Amdahl's law, by standard's share and the time of both attentions. Loss: "
    "after two steps from the same start, where arms must agree to"
)


def _legend(rows: Sequence[TrainingStep]) -> Line:
    agreement = "a thousandth" if rows[0].dtype == "float32" else "5 %"
    return Line(f"{_LEGEND} {agreement}.")


def _title(rows: Sequence[TrainingStep]) -> str:
    """`PatchTST: 764,443 parameters, sf-temps, 4 windows, 2 threads`."""
    row = next((row for row in rows if row.parameters is not None), None)
    if row is None:
        return rows[0].model
    words = [f"{row.parameters:,} parameters" if _alike(rows, "parameters") else "", row.data or ""]
    if row.dtype != "float32":
        words.append(f"{row.dtype} by autocast")
    if row.series is not None and row.series > 1:
        words.append(f"{row.series:,} series")
    words += [counted(row.windows, "window"), counted(row.threads, "thread") if row.threads else ""]
    return f"{row.model}: {', '.join(filter(None, words))}"


def _alike(rows: Iterable[TrainingStep], name: str) -> bool:
    return len({getattr(row, name) for row in rows} - {None}) == 1


def _table(rows: Sequence[TrainingStep]) -> Grid:
    grid = Grid(
        "Con-\ntext", "Attention", "Step\n(ms)", "fwd/bwd/opt\n(ms)", "Peak\n(MiB)", "Attn\n(%)",
        "x stan-\ndard", "at\nmost", "Loss",
        left=[1],
    )  # fmt: skip
    steps = format_known_times([row.time.median_ns if row.time else None for row in rows])
    for index, row in enumerate(rows):
        base = base_of(row, rows)
        first = index == 0 or rows[index - 1].context_length != row.context_length
        ends = index + 1 < len(rows) and rows[index + 1].context_length != row.context_length
        grid.add_row(
            str(row.context_length) if first else "",
            row.attention,
            steps[index] or NOTHING if row.status in ("ok", "wrong") else status_cell(row.status),
            _phases(row),
            f"{row.peak_bytes / 1024**2:.1f}" if row.peak_bytes is not None else NOTHING,
            f"{100 * row.attention_share:.0f}" if row.attention_share is not None else NOTHING,
            ratio_cell(measured_ratio(row, base)),
            ratio_cell(amdahl_bound(row, base)),
            f"{row.losses[-1]:.4f}" if row.losses else NOTHING,
            last=ends,
        )
    return grid


def _phases(row: TrainingStep) -> str | Cell:
    """`346/291/69`: milliseconds of each phase; few digits are enough."""
    phases = [row.forward_ns, row.backward_ns, row.optimizer_ns]
    known = [phase / 1e6 for phase in phases if phase is not None]
    if len(known) < len(phases):
        return NOTHING
    return "/".join(f"{phase:.0f}" if phase >= 9.95 else f"{phase:.1f}" for phase in known)


def _reasons(rows: Sequence[TrainingStep]) -> list[Line]:
    """One line for each status and reason, and for each note, with its rows."""
    failed = grouped(
        (row for row in rows if row.status != "ok"), lambda row: (row.status, row.reason or NO_REASON)
    )
    lines = []
    for (status, reason), where in failed.items():
        lengths = "/".join(dict.fromkeys(str(row.context_length) for row in where))
        arms = ", ".join(dict.fromkeys(row.attention for row in where))
        place = "" if len(where) == len(rows) else f"{arms} at {lengths}: "
        lines.append(Line(f"{place}{status_word(status)}: {reason}"))
    for note, where in grouped(rows, lambda row: row.note).items():
        if note is not None:
            places = ", ".join(f"{row.attention} at {row.context_length}" for row in where)
            lines.append(Line(f"{places}: {note}"))
    return lines


def _verdicts(rows: Sequence[TrainingStep]) -> list[Line]:
    """Where a step with flash attention is faster, equally fast or slower, against each other arm."""
    lines = []
    flash = [row for row in rows if row.attention == _FLASH]
    for other in dict.fromkeys(row.attention for row in rows if row.attention != _FLASH):
        pairs = [(row, measured_ratio(row, base_of(row, rows, other))) for row in flash]
        found = grouped(
            ((row, ratio) for row, ratio in pairs if ratio is not None), lambda pair: _outcome(pair[1])
        )
        if found:
            lines.append(Line(f"flash against {other}, whole steps:", Tone.STRONG))
        for outcome in sorted(found, reverse=True):
            steps = (
                f"{row.model} {row.context_length} {format_wide_ratio(ratio)}"
                for row, ratio in found[outcome]
            )
            lines.append(Line(f"  {_OUTCOMES[outcome]}: {', '.join(steps)}", Tone.PLAIN))
    return lines


def _outcome(ratio: float) -> int:
    """A key of `_OUTCOMES`."""
    return int(ratio > 1 + SAME) - int(ratio < 1 - SAME)


def _longest(rows: Sequence[TrainingStep], budget_bytes: int) -> list[Line | Grid]:
    """The longest context of each model and attention within the budget, and how it compares."""
    models = list(dict.fromkeys(row.model for row in rows))
    arms = list(dict.fromkeys(row.attention for row in rows))
    found = {
        (model, arm): longest_context(
            [row for row in rows if row.model == model and row.attention == arm], budget_bytes
        )
        for model in models
        for arm in arms
    }
    known = [model for model in models if any(found[model, arm] for arm in arms)]
    if not known:
        return []
    grid = Grid("Model", *arms, left=[0])
    for model in known:
        cells = []
        for arm in arms:
            longest = found[model, arm]
            cells.append(
                NOTHING
                if longest is None
                else _longest_word(longest, found.get((model, base_attention(rows[0]))))
            )
        grid.add_row(model, *cells)
    lengths = sorted({length for each in found.values() if each is not None for length in each.measured})
    limits = [(model, most) for model in known if (most := most_context(model)) is not None]
    return [
        _BLANK,
        Line(f"Longest context whose step fits into {format_bytes(budget_bytes)}", Tone.STRONG),
        grid,
        Line(f"computed from the peaks measured at {', '.join(map(str, lengths))}"),
        *(Line(f"{model} takes no more than {most:,}") for model, most in limits),
    ]


def _longest_word(longest: LongestContext, base: LongestContext | None) -> str:
    """`13,507 (2.9x)`: the length, and its ratio to standard attention's."""
    word = f"{longest.length:,}"
    if base is None or base is longest or not base.length:
        return word
    return f"{word} ({longest.length / base.length:.1f}x)"
