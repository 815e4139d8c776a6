"""A row of any kind of file in words: what ran, on what, and its place along a table."""

from __future__ import annotations

from flashbench.analysis.blocks import block_label, with_block
from flashbench.analysis.group_words import problem_line
from flashbench.analysis.groups import Along, group_key
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.problem_words import length_word
from flashbench.analysis.whole_models import along_of, place_of, work_line
from flashbench.results.export.names import benchmark_name
from flashbench.results.record import AnyRow, Measurement


def arm_word(row: AnyRow) -> str:
    """What is compared: `flash (amx)`, or the attention of a whole model."""
    return engine_with_path(row) if isinstance(row, Measurement) else row.attention


def kind_line(row: AnyRow) -> str:
    """The kind of problem, or of a whole model's work, of one table."""
    return problem_line(group_key(row)) if isinstance(row, Measurement) else work_line(row)


def place_word(row: AnyRow) -> str:
    """The row's place along its table."""
    return length_word(row.problem) if isinstance(row, Measurement) else str(place_of(row))


def place_name(row: AnyRow) -> str:
    """The place with its name: `N=1024`, `depth 4096`."""
    return f"N={place_word(row)}" if isinstance(row, Measurement) else f"{along_of(row)} {place_of(row)}"


def place_axis(row: AnyRow) -> Along:
    """What the place is."""
    return "seqlen" if isinstance(row, Measurement) else along_of(row)


def asked_word(row: AnyRow) -> str:
    """The block sizes asked for; empty without any."""
    return block_label(row) if isinstance(row, Measurement) else ""


def row_name(row: AnyRow) -> str:
    """The row in one line, in which every row of a file differs."""
    if isinstance(row, Measurement):
        return benchmark_name(row)
    return f"{kind_line(row)}, {place_name(row)}, {row.attention}"


def row_title(row: AnyRow) -> str:
    """All of a row but its place: what ran, the kind of problem or work, and the block sizes asked for."""
    return with_block(f"{arm_word(row)}, {kind_line(row)}", asked_word(row))
