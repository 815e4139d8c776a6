"""Whole models in the page's first words: what was measured, and how many times faster it became."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flashbench.analysis.group_words import threads_word
from flashbench.analysis.groups import grouped
from flashbench.analysis.ratios import memory_ratio
from flashbench.analysis.whole_models import (
    ModelRow,
    along_of,
    amdahl_bound,
    base_attention,
    base_of,
    measured_ratio,
    model_rows,
    place_key,
    place_of,
    work_key,
    work_words,
)
from flashbench.analysis.words import counted
from flashbench.report.charts.series import Source
from flashbench.report.layout import AXES
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.page.words import distinct_words, listed, named, shared_words, span_word
from flashbench.report.units import format_wide_ratio
from flashbench.results.record import InferenceTest, Results

_Ratio = Callable[[ModelRow, ModelRow | None], float | None]


def held_words(rows: Sequence[ModelRow]) -> Iterator[str]:
    """`It holds 12 tests of inference of llama-160m with sdpa and flash, on 2 threads.`"""
    for of_tests, own in grouped(rows, lambda row: isinstance(row, InferenceTest)).items():
        count = (
            f"{counted(len(own), 'test')} of inference" if of_tests else counted(len(own), "training step")
        )
        models, attentions = listed(row.model for row in own), listed(row.attention for row in own)
        threads = threads_word(own)
        yield f"It holds {count} of {models} with {attentions}{f', on {threads}' if threads else ''}."


def speed_words(rows: Sequence[ModelRow]) -> Iterator[str]:
    """Time and memory against sdpa, or against standard attention, each as a range over all works."""
    for what, own in grouped(rows, _what).items():
        if faster := _spans(own, measured_ratio):
            yield f"{what}, how many times faster than with {base_attention(own[0])}: {faster}."
    for base, own in grouped(rows, base_attention).items():
        if memory := _spans(own, memory_ratio):
            yield f"Peak memory over that with {base}: {memory}."


def faster_tables(sources: Sequence[Source]) -> list[Table]:
    """How many times faster than the base, and Amdahl's bound: a row for each place, for each file."""
    tables = []
    for number, source in enumerate(sources, start=1):
        for along, rows in grouped(_right(source.results), along_of).items():
            base = base_attention(rows[0])
            others = [name for name in dict.fromkeys(row.attention for row in rows) if name != base]
            works = {work_key(row): work_words(row) for row in rows}
            names = distinct_words(works)
            cells = [
                [names[work_key(group[0])], str(place_of(group[0])), *_ratio_cells(group, others)]
                for group in grouped(rows, place_key).values()
            ]
            cells = [row for row in cells if any(row[2:])]
            if cells:
                tables.append(
                    make_table(
                        f"faster-{number}-{along}",
                        f"How many times faster than with {base}{named(source, len(sources))}",
                        [
                            Heading("Work", words=True),
                            Heading(AXES[along].heading),
                            *(Heading(word) for name in others for word in (name, "at most")),
                        ],
                        cells,
                        row_headings=2,
                        notes=[
                            "At most: Amdahl's law, by attention's share of the time with "
                            f"{base}, and by the time of both attentions alone. "
                            + shared_words(list(works.values()))
                        ],
                    )
                )
    return tables


def _ratio_cells(group: Sequence[ModelRow], others: Sequence[str]) -> Iterator[str]:
    found = {row.attention: row for row in group}
    base = found.get(base_attention(group[0]))
    for name in others:
        row = found.get(name)
        for ratio in (measured_ratio, amdahl_bound):
            value = None if row is None else ratio(row, base)
            yield "" if value is None else format_wide_ratio(value)


def _right(results: Results) -> list[ModelRow]:
    """Rows with a right result. No rows of a duel, which has its own table."""
    return [] if results.duels else [row for row in model_rows(results) if row.status == "ok"]


def _spans(rows: Sequence[ModelRow], ratio: _Ratio) -> str:
    """`flash 1.25x to 2.22x`, for each attention but the base."""
    right = [row for row in rows if row.status == "ok"]
    found: dict[str, list[float]] = {}
    for row in right:
        value = None if row.attention == base_attention(row) else ratio(row, base_of(row, right))
        if value is not None:
            found.setdefault(row.attention, []).append(value)
    return ", ".join(f"{name} {span_word(values, format_wide_ratio)}" for name, values in found.items())


def _what(row: ModelRow) -> str:
    return row.test.capitalize() if isinstance(row, InferenceTest) else "A step"
