"""A plan for many hosts as one table, what it means, and what it rests on; or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.words import DIRECTION_WORDS, counted
from flashbench.features.words import window_word
from flashbench.problem import AttentionProblem, Direction
from flashbench.report.cells import fits_cell, size_cell
from flashbench.report.grid import Column, grid_of
from flashbench.report.layout import dashed
from flashbench.report.tones import Cell, Line, Tone
from flashbench.report.units import format_bytes, format_link, format_seconds
from flashbench.studies.plan.plan import PassPlan, Plan
from flashbench.studies.plan.rates import PassRate
from flashbench.texts import indented_json

SCHEMA_VERSION = 1


def plan_report(plan: Plan) -> RenderableType:
    """What is planned, the table, notes and assumptions."""
    problem, passes = plan.problem, plan.passes
    heading = f"{counted(plan.hosts, 'host')}, {problem.seqlen_q:,} tokens, {_problem_words(problem)}"
    chunks = (
        f"{counted(plan.chunks, 'chunk')} of {plan.chunk:,} queries, {plan.key_chunks} of {plan.key_chunk:,} "
    )
    chunks += f"keys, {plan.in_flight} of them in flight; a host receives "
    parts: list[RenderableType] = [
        Line(heading, Tone.STRONG),
        Line(chunks + f"{format_link(plan.network.link)}. Planned, not run"),
        *(Line(_rate_words(each.direction, plan.rates.of(each.direction))) for each in passes),
        Text(),
        _table(plan),
        Text(),
        *(
            Line(f"Transfers hide behind computing, {_word(each)}: {each.hides}", Tone.PLAIN)
            for each in passes
        ),
    ]
    if plan.notes:
        parts += [Text(), Line("To know", Tone.STRONG), dashed(plan.notes)]
    parts += [Text(), Line("Assumed", Tone.STRONG), dashed(plan.assumptions)]
    return Group(*parts)


def plan_json(plan: Plan) -> str:
    """Every figure, in bytes and seconds."""
    return indented_json({"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(plan)}).decode()


def _problem_words(problem: AttentionProblem) -> str:
    heads = counted(problem.num_heads, "head")
    if problem.num_kv_heads != problem.num_heads:
        heads += f" ({problem.num_kv_heads} of keys)"
    size = f"{problem.head_dim}"
    if problem.head_dim_v != problem.head_dim:
        size += f" and {problem.head_dim_v}"
    words = [f"{heads} of {size}", problem.dtype, "causal" if problem.causal else "full"]
    if "window" in problem.features:
        words.append(f"window {window_word(problem)}")
    if problem.batch > 1:
        words.append(f"batch {problem.batch}")
    return ", ".join(words)


def _rate_words(direction: Direction, rate: PassRate) -> str:
    threads = "" if rate.threads is None else f", {counted(rate.threads, 'thread')}"
    return f"a host, {DIRECTION_WORDS[direction]}: {rate.gflops:.4g} GFLOP/s at {rate.seqlen:,} keys{threads}"


def _word(each: PassPlan) -> str:
    return DIRECTION_WORDS[each.direction]


def _table(plan: Plan) -> RenderableType:
    passes = plan.passes
    rows: list[tuple[str, list[str | Cell]]] = []
    total = len(passes) > 1

    def add(
        name: str,
        value: Callable[[PassPlan], float],
        cell: Callable[[float], str | Cell],
        join: Callable[[Sequence[float]], float] = sum,
    ) -> None:
        values = [value(each) for each in passes]
        rows.append((name, [cell(each) for each in [*values, *([join(values)] if total else [])]]))

    def count(value: float) -> str:
        return f"{value:,.0f}"

    def size(value: float) -> Cell:
        return size_cell(int(value))

    add("tasks", lambda each: each.tasks, count)
    add("pairs computed", lambda each: each.pairs, count)
    add("pairs hidden", lambda each: each.hidden_pairs, count)
    add("moved to all hosts", lambda each: each.moved_bytes, size)
    add("moved to a host", lambda each: each.host_moved_bytes, size)
    add("computing", lambda each: each.computing_s, format_seconds)
    add("  beside the kernel", lambda each: each.merging_s, format_seconds)
    add("  mean of hosts", lambda each: each.mean_computing_s, format_seconds)
    add("moving", lambda each: each.moving_s, format_seconds)
    add("  not hidden", lambda each: each.waiting_s, format_seconds)
    add("waiting for others", lambda each: each.order_s, format_seconds)
    add("scheduling, of all", lambda each: each.scheduling_s, format_seconds)
    add("time", lambda each: each.seconds, format_seconds)
    add("memory a host", lambda each: each.memory_bytes, size, max)
    add("  queries, their sums", lambda each: each.memory.queries, size, max)
    add("  keys, their sums", lambda each: each.memory.keys, size, max)
    add("  running task", lambda each: each.memory.task, size, max)
    if plan.memory_limit_bytes is not None:
        fits = [bool(each.fits) for each in passes]
        name = f"fits in {format_bytes(plan.memory_limit_bytes)}"
        rows.append((name, [fits_cell(each) for each in [*fits, *([all(fits)] if total else [])]]))
    names = [_word(each).capitalize() for each in passes] + ["Total"] * total
    columns = [Column("A host", [name for name, _ in rows], left=True)]
    columns += [Column(name, [cells[place] for _, cells in rows]) for place, name in enumerate(names)]
    return grid_of(columns)
