"""What makes a row of one results file the same row of another: its problem or work, and who computed it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from flashbench.analysis.row_words import arm_word, place_word
from flashbench.analysis.whole_models import model_rows, place_key
from flashbench.errors import ResultsError
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.record import AnyRow, Measurement, Results, Side


class Key(NamedTuple):
    """The identity of a measurement within a file. Blocks and path are those asked for: the engine may choose
    others."""

    problem: AttentionProblem
    engine: str
    direction: Direction
    blocks: tuple[int, int] | Literal["auto"] | None
    path: str | None
    side: Side | None
    threads: int | None  # None: all measurements of the files have the same number, or --force ignores it


class ModelKey(NamedTuple):
    """The identity of a whole model's row within a file."""

    place: tuple[object, ...]
    attention: str


AnyKey = Key | ModelKey


def rows_by_key(results: Results, name: str, curves: bool) -> dict[AnyKey, AnyRow]:
    """Every row of one host's results. curves: measurements are told apart by their numbers of threads.

    Raises ResultsError, which begins with `name`, if two rows are alike in every setting.
    """
    rows: dict[AnyKey, AnyRow] = {}
    every: list[AnyRow] = [*results.measurements, *model_rows(results)]
    for row in every:
        key = _key(row, curves) if isinstance(row, Measurement) else ModelKey(place_key(row), row.attention)
        if key in rows:
            raise ResultsError(
                f"{name} holds {arm_word(row)} at {place_word(row)} twice, alike in every setting"
            )
        rows[key] = row
    return rows


def _key(row: Measurement, curves: bool) -> Key:
    return Key(
        row.problem,
        row.engine,
        row.direction,
        row.blocks_asked,
        row.path_asked,
        row.side,
        row.threads if curves else None,
    )
