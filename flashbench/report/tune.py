"""The results of `tune`, or its table: built-in and tuned blocks side by side, and the gain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
from rich.console import Group, RenderableType

from flashbench.analysis.words import DIRECTION_WORDS, counted
from flashbench.engines.flash.tuned import Check
from flashbench.report.grid import Grid, Section
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.report.units import format_change
from flashbench.studies.tune.contest import CONFIDENCE
from flashbench.studies.tune.keep import Outcome, Tuned
from flashbench.studies.tune.plan import longest_of, seqlen_from
from flashbench.system.cores import available_cores
from flashbench.texts import indented_json

_HEADERS = (
    "Lengths",
    "Built-in\nblocks",
    "Tuned\nblocks",
    "From\nheads",
    "Time",
    f"{CONFIDENCE:.0%}\ninterval",
    "At\nN",
    "Heads",
    "Best",
)
_LEGEND = "time: change where least is gained, at that N and heads; best: where most"
# With this many busy cores beside it, a search finds blocks that suit the disturbance.
_MUCH_DISTURBED = 0.1


def tune_report(tuned: Tuned) -> RenderableType:
    """A table for each kind of problem, with a row for each band of lengths."""
    parts: list[RenderableType] = [Line(tuned.cpu)]
    for title, group in groupby(tuned.outcomes, key=_title):
        grid = Grid(*_HEADERS)
        for outcome in group:
            grid.add_row(*_cells(outcome))
        parts += Section(title, grid).parts()
    if any(outcome.checks for outcome in tuned.outcomes):
        parts.append(Line(_LEGEND))
    return Group(*parts)


def tune_lines(tuned: Tuned) -> list[str]:
    """The gain, where it is kept, and warnings. Plain lines, because paths are long."""
    won = sum(outcome.heads_from is not None for outcome in tuned.outcomes)
    lines = [f"{_where(outcome)}: {outcome.failure}" for outcome in tuned.outcomes if outcome.failure]
    kept = f"kept in {tuned.path}" if won else "which stay"
    lines.append(f"{won} of {tuned.asked} faster than the built-in blocks, {kept}")
    if tuned.others_cores >= _MUCH_DISTURBED:
        lines.append(
            f"warning: other processes kept {tuned.others_cores:.1f} cores busy meanwhile: "
            "on a quiet machine more may be won"
        )
    return lines


def table_lines(tuned: Tuned) -> list[str]:
    """Where a table is, and which of its entries this process does not use."""
    if not tuned.outcomes:
        return [f"no tuned block sizes for this CPU ({tuned.cpu}); flashbench tune makes them"]
    lines = [f"{len(tuned.outcomes)} kept in {tuned.path}"]
    cores = available_cores()
    unused = [outcome.threads for outcome in tuned.outcomes if outcome.threads < cores]
    if unused:
        lines.append(
            f"{len(unused)} not used: tuned on {max(unused)} threads or fewer, this process may use {cores}"
        )
    return lines


def tune_json(tuned: Tuned) -> str:
    """Everything, with every check."""
    document = msgspec.to_builtins(tuned) | {"exit_code": tuned.exit_code}
    document["outcomes"] = [_outcome_json(outcome) for outcome in tuned.outcomes]
    return indented_json(document).decode()


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    key = outcome.key._asdict()
    del key["band"]
    lengths = {"seqlen_from": seqlen_from(outcome.key), "seqlen_to": longest_of(outcome.key)}
    rest = msgspec.to_builtins(outcome)
    del rest["key"]
    return {**key, **lengths, **rest}


def _title(outcome: Outcome) -> str:
    key = outcome.key
    causal = "causal" if key.causal else "full"
    threads = counted(outcome.threads, "thread")
    return f"{DIRECTION_WORDS[key.direction]}, {causal}, {key.dtype}, head_dim {key.head_dim}, {threads}"


def _where(outcome: Outcome) -> str:
    return f"{_title(outcome)}, {_lengths(outcome)}"


def _lengths(outcome: Outcome) -> str:
    return f"{seqlen_from(outcome.key)}-{longest_of(outcome.key)}"


def _blocks(blocks: tuple[int, int]) -> str:
    return f"{blocks[0]} x {blocks[1]}"


def _cells(outcome: Outcome) -> list[str | Cell]:
    if outcome.failure is not None:
        tuned = Cell("failed", Tone.BAD)
    elif outcome.tried is None or outcome.heads_from is None:
        tuned = Cell("kept built-in", Tone.QUIET)
    else:
        tuned = Cell(_blocks(outcome.tried), Tone.GOOD)
    heads = NOTHING if outcome.heads_from is None else str(outcome.heads_from)
    checks = _counting(outcome)
    if not checks:
        return [_lengths(outcome), NOTHING, tuned, heads, *[NOTHING] * 5]
    # Without a gain, the highest bound is what prevented it.
    least = max(checks, key=lambda check: check.high if outcome.heads_from is None else check.ratio)
    tone = Tone.PLAIN if outcome.heads_from is not None else Tone.QUIET
    most = min(check.ratio for check in checks)
    interval = f"{format_change(least.low)} to {format_change(least.high)}"
    words = (format_change(least.ratio), interval, str(least.seqlen), str(least.heads), format_change(most))
    return [
        _lengths(outcome),
        _blocks(least.built_in),
        tuned,
        heads,
        *(Cell(word, tone) for word in words),
    ]


def _counting(outcome: Outcome) -> Sequence[Check]:
    """The checks of the blocks that are used; all checks if none are."""
    first = outcome.heads_from or 1
    return [check for check in outcome.checks if check.heads >= first]
