"""The documented figures beside measured ones of the same problems, in the same columns."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.blocks import block_rows
from flashbench.analysis.ratios import memory_ratio
from flashbench.report.charts.series import Source
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.profile import by_problem
from flashbench.report.units import format_bytes, format_ratio
from flashbench.results.record import Measurement, Results

_HEADINGS = tuple(
    map(
        Heading,
        (
            "N",
            "Batch",
            "Standard Mem, documented",
            "measured",
            "Flash Mem, documented",
            "measured",
            "Savings, documented",
            "measured",
            "Time (ms), documented",
            "measured",
        ),
    )
)


def documented_tables(documented: Results, sources: Sequence[Source]) -> list[Table]:
    """A table for each file that holds any of the documented problems; if none does, one without a file."""
    tables = []
    for number, source in enumerate(sources, start=1):
        measured = _fastest(source.results.measurements)
        if any((row.problem, row.engine) in measured for row in documented.measurements):
            name = source.name if len(sources) > 1 else ""
            tables.append(_table(f"documented-{number}", documented, measured, name))
    if tables:
        return tables
    note = (
        "No profile here holds these problems. They are measured by flashbench profile, and those of batch 8 "
        "by flashbench profile --batch 8 --seq-lens 512,1k,2k,4k,8k."
    )
    return [_table("documented-1", documented, {}, "", note)]


Measured = dict[tuple[object, str], Measurement]


def _fastest(rows: Sequence[Measurement]) -> Measured:
    """The forward row of each problem and engine, without duels; of several block sizes the fastest."""
    found: Measured = {}
    for engine in {row.engine for row in rows}:
        own = [row for row in rows if (row.engine, row.direction, row.side) == (engine, "fwd", None)]
        for at in block_rows(own):
            found[at.problem, engine] = at.fastest or next(iter(at.points.values()))
    return found


def _table(id_: str, documented: Results, measured: Measured, name: str, note: str = "") -> Table:
    rows = []
    for standard, flash in by_problem(documented.measurements):
        some = flash or standard
        assert some is not None, "a problem comes from a row"
        ours = [measured.get((some.problem, engine)) for engine in ("standard", "flash")]
        rows.append(
            [
                str(some.problem.seqlen_k),
                str(some.problem.batch),
                _memory(standard),
                _memory(ours[0]),
                _memory(flash),
                _memory(ours[1]),
                _savings(standard, flash),
                _savings(ours[0], ours[1]),
                _time(flash),
                _time(ours[1]),
            ]
        )
    return make_table(
        id_,
        f"Documented and measured{f', {name}' if name else ''}: forward, full, float64, one head of 64",
        _HEADINGS,
        rows,
        row_headings=2,
        notes=[
            *([note] if note else []),
            "The document states neither its machine nor its threads: its times say nothing of this machine.",
        ],
    )


def _memory(row: Measurement | None) -> str:
    return format_bytes(row.memory.workspace_peak_bytes) if row and row.memory else ""


def _savings(standard: Measurement | None, flash: Measurement | None) -> str:
    ratio = memory_ratio(standard, flash)
    return "" if ratio is None else format_ratio(ratio)


def _time(row: Measurement | None) -> str:
    return f"{row.time.median_ns / 1e6:.2f}" if row and row.time and row.status == "ok" else ""
