"""What `tune` found, or what its table holds: built-in and tuned blocks side by side, and what that gains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.engines.flash.tuned import Check
from flashbench.report.layout import DIRECTION_WORDS, NOTHING, Grid
from flashbench.report.units import format_change
from flashbench.studies.tune.contest import CONFIDENCE
from flashbench.studies.tune.keep import Outcome, Tuned
from flashbench.studies.tune.plan import longest_of, seqlen_from
from flashbench.system.cores import available_cores
from flashbench.texts import to_json

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
# Beside this many busy cores a search finds what suits the disturbance.
_MUCH_DISTURBED = 0.1


def tune_report(tuned: Tuned) -> RenderableType:
    """A table per kind of problem, a row per band of lengths, and what is kept where."""
    parts: list[RenderableType] = [Text(tuned.cpu, style="dim")]
    for title, group in groupby(tuned.outcomes, key=_title):
        grid = Grid(*_HEADERS)
        for outcome in group:
            grid.add_row(*_cells(outcome))
        parts += [Text(), Text(title, style="bold"), grid]
    if any(outcome.checks for outcome in tuned.outcomes):
        parts += [Text(_LEGEND, style="dim")]
    return Group(*parts)


def tune_lines(tuned: Tuned) -> list[str]:
    """How much was won, where it is kept, and what a reader should know: plain lines, as paths are long."""
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
    """Of a table: where it is, and what of it this process does not use."""
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
    """All of it, with every check."""
    document = msgspec.to_builtins(tuned) | {"exit_code": tuned.exit_code}
    document["outcomes"] = [_outcome_json(outcome) for outcome in tuned.outcomes]
    return msgspec.json.format(to_json(document), indent=2).decode() + "\n"


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
    threads = f"{outcome.threads} thread{'' if outcome.threads == 1 else 's'}"
    return f"{DIRECTION_WORDS[key.direction]}, {causal}, {key.dtype}, head_dim {key.head_dim}, {threads}"


def _where(outcome: Outcome) -> str:
    return f"{_title(outcome)}, {_lengths(outcome)}"


def _lengths(outcome: Outcome) -> str:
    return f"{seqlen_from(outcome.key)}-{longest_of(outcome.key)}"


def _blocks(blocks: tuple[int, int]) -> str:
    return f"{blocks[0]} x {blocks[1]}"


def _cells(outcome: Outcome) -> list[str | Text]:
    if outcome.failure is not None:
        tuned = Text("failed", style="bold red")
    elif outcome.tried is None or outcome.heads_from is None:
        tuned = Text("kept built-in", style="dim")
    else:
        tuned = Text(_blocks(outcome.tried), style="green")
    heads = NOTHING if outcome.heads_from is None else str(outcome.heads_from)
    checks = _counting(outcome)
    if not checks:
        return [_lengths(outcome), NOTHING, tuned, heads, *[NOTHING] * 5]
    # Where nothing was won, what stood in the way is the highest bound.
    least = max(checks, key=lambda check: check.high if outcome.heads_from is None else check.ratio)
    style = "" if outcome.heads_from is not None else "dim"
    most = min(check.ratio for check in checks)
    interval = f"{format_change(least.low)} to {format_change(least.high)}"
    words = (format_change(least.ratio), interval, str(least.seqlen), str(least.heads), format_change(most))
    return [
        _lengths(outcome),
        _blocks(least.built_in),
        tuned,
        heads,
        *(Text(word, style=style) for word in words),
    ]


def _counting(outcome: Outcome) -> Sequence[Check]:
    """The checks of what is used; all of them where nothing is."""
    first = outcome.heads_from or 1
    return [check for check in outcome.checks if check.heads >= first]
