"""Rows of whole models, of `train` and `infer`: what they have in common, their words, and their ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from flashbench.analysis.groups import Along
from flashbench.analysis.words import counted
from flashbench.results.record import InferenceTest, Results, TrainingStep

ModelRow = TrainingStep | InferenceTest
RowType = TypeVar("RowType", bound=ModelRow)


def model_rows(results: Results) -> list[ModelRow]:
    """Every row of whole models.

    A step that failed before its data was read gets the data of its model's other steps: it is their work.
    """
    known = {
        (row.model, row.windows): {"data": row.data, "series": row.series}
        for row in results.training
        if row.data is not None
    }
    steps = (
        msgspec.structs.replace(row, **known.get((row.model, row.windows), {})) if row.data is None else row
        for row in results.training
    )
    return [*steps, *results.inference]


def work_key(row: ModelRow) -> tuple[object, ...]:
    """All of a row's work but its place along a table, and its attention."""
    if isinstance(row, InferenceTest):
        return row.model, row.dtype, row.test, row.tokens, row.batch
    return row.model, row.dtype, row.data, row.series, row.windows


def work_line(row: ModelRow) -> str:
    """`llama-160m, float32, decode 32`, or `PatchTST, float32, sf-temps, 4 windows`."""
    return ", ".join(work_words(row))


def work_words(row: ModelRow) -> tuple[str, ...]:
    """The words of `work_line`."""
    return tuple(filter(None, _words(row)))


def _words(row: ModelRow) -> Iterator[str | None]:
    yield row.model
    yield row.dtype
    if isinstance(row, InferenceTest):
        yield f"{row.test} {row.tokens}"
        yield counted(row.batch, "sequence") if row.batch > 1 else None
    else:
        yield row.data
        yield f"{row.series:,} series" if row.series is not None and row.series > 1 else None
        yield counted(row.windows, "window")


def along_of(row: ModelRow) -> Along:
    """What runs down a table of such rows."""
    return "depth" if isinstance(row, InferenceTest) else "context"


def place_of(row: ModelRow) -> int:
    """A row's place along its table: tokens in the cache before, or the context length."""
    return row.depth if isinstance(row, InferenceTest) else row.context_length


def place_key(row: ModelRow) -> tuple[object, ...]:
    """What the attentions of a place have in common: all of the work."""
    return *work_key(row), place_of(row)


def base_attention(row: ModelRow) -> str:
    """The attention that others are compared with."""
    return "sdpa" if isinstance(row, InferenceTest) else "standard"


def base_of(row: RowType, rows: Sequence[RowType], attention: str | None = None) -> RowType | None:
    """The row of the same work at the same place with that attention (default `base_attention`)."""
    wanted, place = attention or base_attention(row), place_key(row)
    return next((one for one in rows if one.attention == wanted and place_key(one) == place), None)


def measured_ratio(row: ModelRow, base: ModelRow | None) -> float | None:
    """How many times faster than the base a row is; None unless both were timed."""
    if base is None or row.time is None or base.time is None:
        return None
    return base.time.median_ns / row.time.median_ns


def attention_ns(row: ModelRow) -> float | None:
    """Time in attention: of a test, or of a step, forward and backward."""
    if isinstance(row, InferenceTest):
        return row.attention_ns
    if row.attention_forward_ns is None or row.attention_backward_ns is None:
        return None
    return row.attention_forward_ns + row.attention_backward_ns


def amdahl_bound(row: ModelRow, base: ModelRow | None) -> float | None:
    """1 / ((1 - f) + f / s): f is attention's share of the base's time, s its speed-up here.

    Amdahl 1967, "Validity of the single processor approach": the effect of a faster part on the whole.
    """
    if base is None or base.attention_share is None:
        return None
    own, others = attention_ns(row), attention_ns(base)
    if not own or not others or own < 0 or others < 0:
        return None
    share, faster = base.attention_share, others / own
    return 1.0 / ((1.0 - share) + share / faster)
