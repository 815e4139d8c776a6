"""What several reports share: axes, the heading, and the lines below a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flashbench.analysis.blocks import block_word, with_block
from flashbench.analysis.group_words import places_word
from flashbench.analysis.groups import Along, grouped
from flashbench.analysis.paths import engine_with_path, paths_word
from flashbench.analysis.words import NO_REASON, STATUS_WORDS, counted
from flashbench.report.tones import VERDICT_TONES, Cell, Line, status_tone
from flashbench.report.units import format_bytes
from flashbench.results.record import AnyRow, Machine, Measurement, Results, Verdict

NO_POINT = "no point was measured"
NOT_STATED = "not told"  # for a property that the system does not give


class Axis(NamedTuple):
    """The names of what runs down a table."""

    header: str  # of a `Grid`
    heading: str  # of a table of the page
    words: str  # of a chart


AXES: Mapping[Along, Axis] = {
    "seqlen": Axis("Seq\nLen", "N", "sequence length N"),
    "keys": Axis("Keys", "Keys", "keys"),
    "head_dim": Axis("Head\nDim", "Head Dim", "head size"),
    "depth": Axis("Depth", "Depth", "tokens in the cache before"),
    "context": Axis("Con-\ntext", "Context", "context length"),
}


def heading(results: Results) -> list[RenderableType]:
    """The study's title, if it has one, and the machine."""
    title = study_title(results)
    return [
        *([Text(title, style="bold underline")] if title else []),
        *(Line(line) for line in machine_lines(results)),
    ]


def study_title(results: Results) -> str:
    """The title that the study's settings give; empty without one."""
    return str(results.study.get("title") or "")


def machine_lines(results: Results) -> list[str]:
    """The CPU and, if measured, the peak and the bandwidth that percentages refer to: one line each."""
    machine = results.machine
    lines = [machine_words(machine)]
    if machine.peak_gflops:
        threads = f", {counted(machine.peak_threads, 'thread')}" if machine.peak_threads else ""
        peaks = ", ".join(f"{gflops:.0f} {name}" for name, gflops in machine.peak_gflops.items())
        lines.append(f"FMA peak (measured{threads}), GFLOP/s: {peaks}")
    with_bandwidth = any(
        row.rates is not None and row.rates.percent_of_bandwidth is not None for row in results.measurements
    )
    if with_bandwidth and machine.read_bandwidth_gbps is not None:
        lines.append(f"read bandwidth of memory (measured), GB/s: {machine.read_bandwidth_gbps:.1f}")
    return lines


def machine_words(machine: Machine) -> str:
    """`AMD EPYC, avx512, 2 cores`."""
    cores = None if machine.cores is None else counted(machine.cores, "core")
    return ", ".join(filter(None, (machine.cpu, machine.isa, cores)))


def caches_word(machine: Machine) -> str:
    """`L1d 32.00 KiB, L2 1.00 MiB`."""
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in machine.caches.items())


def status_cell(measurement: Measurement) -> Cell:
    """The status, in place of a missing figure."""
    return Cell(STATUS_WORDS.get(measurement.status, ""), status_tone(measurement.status))


def path_lines(measurements: Iterable[Measurement]) -> list[Line]:
    """One line for the paths of 16-bit dtypes; none for others, which leave no choice."""
    words = paths_word(measurements)
    return [Line(f"products: {words}")] if words else []


def reason_lines(measurements: Iterable[Measurement], along: Along = "seqlen") -> list[Line]:
    """Why rows are not ok: one line for each engine, block size, status and reason, with its places."""
    failed = grouped(
        (row for row in measurements if row.status != "ok"),
        lambda row: (engine_with_path(row), block_word(row), row.status, row.reason or NO_REASON),
    )
    return [
        Line(f"{with_block(engine, block)} at {places_word(rows, along)}: {STATUS_WORDS[status]}: {reason}")
        for (engine, block, status, reason), rows in failed.items()
    ]


def note_lines(measurements: Iterable[Measurement], along: Along = "seqlen") -> list[Line]:
    """What engines really ran: one line for each engine and note, with its places."""
    noted = grouped(
        (row for row in measurements if row.note is not None), lambda row: (engine_with_path(row), row.note)
    )
    return [Line(f"{engine} at {places_word(rows, along)}: {note}") for (engine, note), rows in noted.items()]


def outlier_lines(measurements: Iterable[Measurement]) -> list[Line]:
    """The number of outliers, in one line; no line without outliers."""
    times = [row.time for row in measurements if row.time is not None]
    outliers = sum(time.outliers for time in times)
    calls = sum(len(process) for time in times for process in time.samples_ns)
    if not outliers:
        return []
    return [Line(f"{outliers} of {calls} calls lie 3 interquartile ranges or more outside; none is left out")]


def verdict_counts(verdicts: Iterable[Verdict], words: Mapping[Verdict, str] = MappingProxyType({})) -> str:
    """`1 regressed, 3 same`, the worst first. words: for verdicts that have another name here."""
    counts = Counter(verdicts)
    return ", ".join(
        f"{counts[verdict]} {words.get(verdict, verdict)}" for verdict in VERDICT_TONES if counts[verdict]
    )


def statuses_line(measurements: Iterable[AnyRow]) -> str:
    """`2 crashed, 1 too large`; a row that is ok but has no time counts as `no time`."""
    counts = Counter(STATUS_WORDS.get(row.status, "no time") for row in measurements)
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def dashed(lines: Iterable[str]) -> Table:
    """Each line after a dash; a long one continues under its beginning."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        table.add_row("-", Text(line))
    return table
