"""The paths of measurements in words."""

from __future__ import annotations

from collections.abc import Iterable

from flashbench.analysis.groups import grouped
from flashbench.results.record import Measurement


def engine_with_path(row: Measurement) -> str:
    """`flash`, or `flash (amx)` if the path was asked for."""
    return row.engine if row.path_asked is None else f"{row.engine} ({row.path_asked})"


def paths_word(rows: Iterable[Measurement]) -> str:
    """`flash amx, standard convert`; empty if all is computed by multiply-adds in the dtype itself."""
    known = [row for row in rows if row.isa_path is not None]
    if all(row.isa_path == "fma" for row in known):
        return ""
    return ", ".join(
        f"{engine} {' and '.join(dict.fromkeys(row.isa_path or '' for row in found))}"
        for engine, found in grouped(known, lambda row: row.engine).items()
    )
