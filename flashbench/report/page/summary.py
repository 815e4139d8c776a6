"""The page's first words: what was measured, where, and the main ratios."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flashbench.analysis.blocks import AUTO, block_rows
from flashbench.analysis.decoding import is_decoding
from flashbench.analysis.group_words import axis_word, threads_word
from flashbench.analysis.groups import group_measurements, grouped, table_axis
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.ratios import memory_ratio, time_ratio
from flashbench.analysis.scaling import has_scaling, with_most_threads
from flashbench.analysis.whole_models import model_rows
from flashbench.analysis.words import DIRECTION_WORDS, counted
from flashbench.report.charts.series import Source
from flashbench.report.duel import duel_counts
from flashbench.report.layout import machine_words, statuses_line
from flashbench.report.page.models_summary import held_words, speed_words
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.page.words import capital, caption_words, common_words, listed, named, span_word
from flashbench.report.units import format_change, format_ratio, format_wide_ratio
from flashbench.results.record import AnyRow, Measurement, Results


def summary(sources: Sequence[Source]) -> list[str]:
    """A paragraph for each file. A range covers all measurements of the file."""
    return [" ".join(_sentences(source, len(sources))) for source in sources]


def ratio_tables(sources: Sequence[Source]) -> list[Table]:
    """Time and memory over the base's: a row for each kind of problem, for each file with several engines."""
    tables = []
    for number, source in enumerate(sources, start=1):
        rows = _profiled(source.results)
        engines = _engines(rows)
        if len(engines) < 2:
            continue
        base, *others = engines
        along = table_axis(rows)
        groups = group_measurements(rows, along)
        names = caption_words(list(groups))
        cells = []
        for key, group in groups.items():
            places = list(dict.fromkeys(axis_word(row.problem, key.along) for row in group))
            ends = places[0] if len(places) == 1 else f"{places[0]} to {places[-1]}"
            times = [span_word(_time_ratios(group, other, base), format_wide_ratio) for other in others]
            memory = [span_word(_memory_ratios(group, other, base), format_ratio) for other in others]
            cells.append([names[key], ends, *times, *memory])
        with_memory = any(row.memory for row in rows)
        what = "Time and workspace over those of" if with_memory else "Time over that of"
        tables.append(
            make_table(
                f"ratios-{number}",
                f"{what} {base}{named(source, len(sources))}",
                [
                    Heading("Problem", words=True),
                    Heading("N" if along == "seqlen" else "Head size"),
                    *(Heading(f"{other}, time") for other in others),
                    *(Heading(f"{other}, memory") for other in others),
                ],
                cells,
                notes=[
                    f"Lowest and highest of the places where both were measured. Above 1: {base} took less. "
                    + common_words(list(groups))
                ],
            )
        )
    return tables


def _sentences(source: Source, files: int) -> Iterator[str]:
    results = source.results
    rows, models = results.measurements, model_rows(results)
    yield _where(source, files)
    if not results.rows:
        yield "It holds no measurement."
        return
    if rows:
        problems = len({(row.problem, row.direction) for row in rows})
        threads = threads_word(rows)
        yield (
            f"It holds {counted(len(rows), 'measurement')} of {listed(_engines(rows))} on "
            f"{counted(problems, 'problem')}{f', with {threads}' if threads else ''}."
        )
    yield from held_words(models)
    yield from _missing(results.rows)
    if results.duels:
        yield f"{counted(len(results.duels), 'duel')} of B against A: {duel_counts(results)}."
        return
    if has_scaling(rows):
        yield "Ratios are those of the largest number of threads."
    yield from _headlines(_profiled(results))
    yield from _block_words(rows)
    yield from speed_words(models)


def _where(source: Source, files: int) -> str:
    """`Measured on AMD EPYC, avx512, 2 cores, on 2026-11-23, by flashbench 0.1.0.`"""
    machine = source.results.machine
    name = f"{source.name}: measured" if files > 1 else "Measured"
    day = source.results.created[:10]
    unfinished = "" if source.results.complete else " The run is not complete."
    version = source.results.flashbench_version
    return f"{name} on {machine_words(machine)}, on {day}, by flashbench {version}.{unfinished}"


def _missing(rows: Sequence[AnyRow]) -> Iterator[str]:
    failed = [row for row in rows if row.status != "ok"]
    if failed:
        yield f"{len(failed)} of these gave no right result: {statuses_line(failed)}."


def _headlines(rows: Sequence[Measurement]) -> Iterator[str]:
    """Ratios to flash, or to the first engine without flash, and the share of the peak."""
    if not rows:
        return
    base, *others = _engines(rows)
    for direction in dict.fromkeys(row.direction for row in rows):
        own = [row for row in rows if row.direction == direction]
        parts = [
            f"{other} {span}"
            for other in others
            if (span := span_word(_time_ratios(own, other, base), format_wide_ratio))
        ]
        if parts:
            words = capital(DIRECTION_WORDS[direction])
            yield f"{words}, the median time over that of {base}: {', '.join(parts)}."
    memory = [
        f"{other} {span}"
        for other in others
        if (span := span_word(_memory_ratios(rows, other, base), format_ratio))
    ]
    if memory:
        yield f"Peak workspace over that of {base}: {', '.join(memory)}."
    rates = [
        (row, row.rates) for row in rows if engine_with_path(row) == base and row.status == "ok" and row.rates
    ]
    peak = [rate.percent_of_peak for row, rate in rates if not is_decoding(row.problem)]
    if span := _whole_span(peak):
        yield f"{base} reached {span} % of the multiply-add peak measured in the same run."
    bandwidth = [rate.percent_of_bandwidth for row, rate in rates if is_decoding(row.problem)]
    if span := _whole_span(bandwidth):
        yield f"Decoding, {base} read k and v at {span} % of the read bandwidth measured in the same run."


def _whole_span(shares: Iterable[float | None]) -> str:
    """`80`, or `63 to 92`; empty if none is known."""
    known = sorted(share for share in shares if share is not None)
    return span_word(known, lambda share: f"{share:.0f}")


def _block_words(rows: Sequence[Measurement]) -> Iterator[str]:
    """For a sweep: its figures are those of the best sizes; and the cost of the engine's own choice."""
    for engine in _engines(rows):
        own = [row for row in rows if engine_with_path(row) == engine]
        groups = group_measurements(with_most_threads(own))
        found = [at for group in groups.values() for at in block_rows(group)]
        if not any(len(at.points) > 1 for at in found):
            continue
        yield f"Figures of {engine} are those of the fastest block size of each problem."
        costs = [cost for at in found if (cost := at.cost(AUTO)) is not None]
        if costs:
            span = span_word(costs, format_change)
            yield f"Its own choice, auto, took {span} over the best fixed size."


def _profiled(results: Results) -> list[Measurement]:
    """All rows: of several block sizes only the fastest, of several numbers of threads only the most.

    No rows of a duel, which has its own table.
    """
    if results.duels:
        return []
    rows = []
    measured = with_most_threads(results.measurements)
    for group in group_measurements(measured, table_axis(measured)).values():
        for of_engine in grouped(group, engine_with_path).values():
            found = block_rows(of_engine)
            rows += [at.fastest or next(iter(at.points.values())) for at in found]
    return rows


def _engines(rows: Iterable[Measurement]) -> list[str]:
    """Engines in the order measured, but flash first: the others are compared with it."""
    return sorted(dict.fromkeys(map(engine_with_path, rows)), key=lambda name: not name.startswith("flash"))


def _pairs(
    rows: Iterable[Measurement], over: str, under: str
) -> Iterator[tuple[Measurement | None, Measurement | None]]:
    found = {(row.problem, row.direction, engine_with_path(row)): row for row in rows}
    for problem, direction, engine in found:
        if engine == over:
            yield found[problem, direction, over], found.get((problem, direction, under))


def _time_ratios(rows: Iterable[Measurement], over: str, under: str) -> list[float]:
    ratios = (time_ratio(*pair) for pair in _pairs(rows, over, under))
    return [ratio for ratio in ratios if ratio is not None]


def _memory_ratios(rows: Iterable[Measurement], over: str, under: str) -> list[float]:
    ratios = (memory_ratio(*pair) for pair in _pairs(rows, over, under))
    return [ratio for ratio in ratios if ratio is not None]
