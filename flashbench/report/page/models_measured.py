"""Tables of everything measured of whole models: one for each work, with every figure of every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flashbench.analysis.groups import grouped
from flashbench.analysis.inference import tokens_per_second
from flashbench.analysis.whole_models import ModelRow, along_of, model_rows, place_of, work_key, work_line
from flashbench.report.charts.series import Source
from flashbench.report.layout import AXES
from flashbench.report.page.rows import TIME_HEADINGS, TIME_NOTE, outcome_cell, time_cells
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.tones import Cell
from flashbench.report.units import format_bytes, format_known_times, format_rate
from flashbench.results.record import InferenceTest, TrainingStep

_Column = tuple[Heading, Sequence[Cell | str]]
_INFERENCE_NOTE = (
    "Tokens a second of all sequences; from, to: an interval of the median over processes. Attention's time "
    "is of one test. The peak is of one test, beyond the weights and the cache before."
)
_TRAINING_NOTE = (
    "Phases and attention are medians of one step, in ms. The peak is of one step, beyond the model, its "
    "inputs and its gradients. The largest call of attention: batch, heads, queries, keys, head sizes of k "
    "and v."
)


def model_tables(sources: Sequence[Source]) -> dict[tuple[object, ...], Table]:
    """A table for each model's work, by `work_key`, in the order measured."""
    named = ((source.name, row) for source in sources for row in model_rows(source.results))
    groups = grouped(named, lambda each: work_key(each[1]))
    return {
        key: _table(f"models-{number}", group, several=len(sources) > 1)
        for number, (key, group) in enumerate(groups.items(), start=1)
    }


def _table(id_: str, named: Sequence[tuple[str, ModelRow]], *, several: bool) -> Table:
    rows = [row for _, row in named]
    tests = [row for row in rows if isinstance(row, InferenceTest)]
    steps = [row for row in rows if isinstance(row, TrainingStep)]
    columns: list[_Column] = [
        (Heading(AXES[along_of(rows[0])].heading), [str(place_of(row)) for row in rows]),
        (Heading("File", words=True), [name if several else "" for name, _ in named]),
        (Heading("Attention", words=True), [row.attention for row in rows]),
        (Heading("Threads"), _counts([row.threads for row in rows])),
        *_rates(tests),
        *zip(TIME_HEADINGS, zip(*time_cells([row.time for row in rows]), strict=True), strict=True),
        *_of_steps(steps),
        *_of_tests(tests),
        (Heading("Attention, %"), [_percent(row.attention_share) for row in rows]),
        (Heading("Peak"), _sizes([row.peak_bytes for row in rows])),
        (Heading("Parameters"), _counts([row.parameters for row in rows])),
        *_sizes_of_tests(tests),
        *_outcomes_of_steps(steps),
        (Heading("Status", words=True), [outcome_cell(row) for row in rows]),
    ]
    return make_table(
        id_,
        work_line(rows[0]),
        [heading for heading, _ in columns],
        list(zip(*(cells for _, cells in columns), strict=True)),
        notes=[TIME_NOTE, _INFERENCE_NOTE if tests else _TRAINING_NOTE]
        if any(row.time for row in rows)
        else [],
    )


def _rates(tests: Sequence[InferenceTest]) -> Iterator[_Column]:
    if not tests:
        return
    rates = [tokens_per_second(test) for test in tests]
    yield Heading("Tokens/s"), [format_rate(rate.median) if rate else "" for rate in rates]
    yield Heading("from"), [format_rate(rate.low) if rate else "" for rate in rates]
    yield Heading("to"), [format_rate(rate.high) if rate else "" for rate in rates]
    yield Heading("Confidence, %"), [_percent(rate.confidence if rate else None) for rate in rates]
    firsts = [test.time.median_ns if test.time and test.test == "prefill" else None for test in tests]
    yield Heading("First token, ms"), format_known_times(firsts)


def _of_tests(tests: Sequence[InferenceTest]) -> Iterator[_Column]:
    if tests:
        yield Heading("Attention, ms"), format_known_times([test.attention_ns for test in tests])


def _sizes_of_tests(tests: Sequence[InferenceTest]) -> Iterator[_Column]:
    if tests:
        yield Heading("Weights"), _sizes([test.weight_bytes for test in tests])
        yield Heading("Cache before"), _sizes([test.cache_bytes for test in tests])


def _of_steps(steps: Sequence[TrainingStep]) -> Iterator[_Column]:
    if not steps:
        return
    yield Heading("Forward"), format_known_times([step.forward_ns for step in steps])
    yield Heading("Backward"), format_known_times([step.backward_ns for step in steps])
    yield Heading("Optimizer"), format_known_times([step.optimizer_ns for step in steps])
    yield Heading("Attention forward"), format_known_times([step.attention_forward_ns for step in steps])
    yield Heading("Attention backward"), format_known_times([step.attention_backward_ns for step in steps])


def _outcomes_of_steps(steps: Sequence[TrainingStep]) -> Iterator[_Column]:
    if not steps:
        return
    yield Heading("Buffers"), _sizes([step.buffer_bytes for step in steps])
    yield Heading("Calls of attention"), _counts([step.attention_calls for step in steps])
    shapes = ["\N{MULTIPLICATION SIGN}".join(map(str, step.attention_shape or ())) for step in steps]
    yield Heading("Largest call", words=True), shapes
    yield Heading("Losses", words=True), [", ".join(f"{loss:.4f}" for loss in step.losses) for step in steps]


def _counts(counts: Sequence[int | None]) -> list[str]:
    return ["" if count is None else f"{count:,}" for count in counts]


def _sizes(sizes: Sequence[int | None]) -> list[str]:
    return ["" if size is None else format_bytes(size) for size in sizes]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
