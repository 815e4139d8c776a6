"""What the reports share: calm tables, the words for a problem and a machine, reasons for missing figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from flashbench.analysis.blocks import block_label, blocks_word
from flashbench.analysis.decoding import is_decoding
from flashbench.analysis.problem_words import feature_words, length_word
from flashbench.problem import AttentionProblem, Direction
from flashbench.report.escapes import escape_markdown
from flashbench.report.units import brief_bytes
from flashbench.results.record import Machine, Measurement, Results, Verdict
from flashbench.studies.lengths import with_length

# What runs down a table, and the header of its column.
Along = Literal["seqlen", "keys", "head_dim"]
AXIS_HEADERS: dict[Along, str] = {"seqlen": "Seq\nLen", "keys": "Keys", "head_dim": "Head\nDim"}
# Length of a group's problem where its sequences have lengths of their own, which then are percent of it.
_WHOLE = 100
DIRECTION_WORDS: dict[Direction, str] = {
    "fwd": "forward",
    "bwd": "backward",
    "fwd_bwd": "forward and backward",
}
STATUS_WORDS = {
    "unsupported": "unsupported",
    "too_large": "too large",
    "out_of_memory": "out of memory",
    "timeout": "timeout",
    "crashed": "crashed",
    "wrong": "wrong",
}
VERDICT_STYLES: dict[Verdict, str] = {
    "regressed": "bold red",
    "failed": "bold red",
    "inconclusive": "yellow",
    "a_faster": "bold",
    "same": "",
    "b_faster": "bold",
    "improved": "green",
}
NOTHING = Text("-", style="dim")


class Grid:
    """A table as wide as the console allows: its headers take two lines, its gaps narrow, then memory has
    one decimal.
    """

    def __init__(self, *headers: str, left: Iterable[int] = (), whole: bool = False) -> None:
        """A line break in a header is where it may break, after a hyphen that it then needs.

        Columns numbered in `left` are left-aligned; with `whole` they alone may break their cells.
        """
        self._headers = headers
        self._left = frozenset(left)
        self._whole = whole
        self._rows: list[tuple[tuple[str | Text, ...], bool]] = []

    def add_row(self, *cells: str | Text, last: bool = False) -> None:
        """A row; `last` leaves a blank line after it."""
        self._rows.append((cells, last))

    def _table(self, gap: int, *, broken: bool, brief: bool = False) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, gap - 1))
        for index, header in enumerate(self._headers):
            text = Text(header if broken else _unbroken(header), style="bold")
            left = index in self._left
            table.add_column(
                text,
                justify="left" if left else "right",
                vertical="bottom",
                no_wrap=self._whole and not left,
            )
        for cells, last in self._rows:
            table.add_row(*(_cell(cell, brief=brief) for cell in cells), end_section=last)
        return table

    def markdown(self) -> str:
        """The same table as GitHub renders it; what stands out by a bold style stands out there too."""
        # An empty cell was said in a row above, which a dash would deny.
        return markdown_table(self._headers, [row for row, _ in self._rows], left=self._left, empty=" ")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table(1, broken=True, brief=True)
        for gap, broken in ((3, False), (2, False), (3, True), (2, True), (1, True)):
            wider = self._table(gap, broken=broken)
            if console.measure(wider, options=options.update_width(10_000)).maximum <= options.max_width:
                table = wider
                break
        yield table


def _cell(cell: str | Text, *, brief: bool) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell
    short = brief_bytes(text.plain) if brief else text.plain
    return text if short == text.plain else Text(short, style=text.style)


def _unbroken(header: str) -> str:
    return header.replace("-\n", "").replace("\n", " ")


class GroupKey(NamedTuple):
    """What the rows of one table have in common: a problem but for what runs down the table, a direction."""

    problem: AttentionProblem
    direction: Direction
    along: Along = "seqlen"


def table_axis(measurements: Iterable[Measurement]) -> Along:
    """What runs down the tables: lengths, unless there is one length and several head sizes."""
    problems = [row.problem for row in measurements]
    one_length = len({(problem.seqlen_q, problem.seqlen_k) for problem in problems}) == 1
    return "head_dim" if one_length and len({problem.head_dim for problem in problems}) > 1 else "seqlen"


def group_key(measurement: Measurement, along: Along = "seqlen") -> GroupKey:
    """The table that a measurement belongs to."""
    return problem_key(measurement.problem, measurement.direction, along)


def problem_key(problem: AttentionProblem, direction: Direction, along: Along = "seqlen") -> GroupKey:
    """The table that a problem belongs to; what runs down it is 1 in its problem.

    Down a table of steps of decoding run the keys, and the queries of a step are alike. Lengths of single
    sequences are alike where they are the same shares of the longest.
    """
    if along == "head_dim":
        alike = msgspec.structs.replace(problem, head_dim=1, head_dim_v=1)
    else:
        whole = 1 if problem.key_lengths is None else _WHOLE
        along = "keys" if direction == "fwd" and is_decoding(problem) else "seqlen"
        alike = with_length(problem, problem.seqlen_q if along == "keys" else whole, whole)
    return GroupKey(alike, direction, along)


def group_measurements(
    measurements: Iterable[Measurement], along: Along = "seqlen"
) -> dict[GroupKey, list[Measurement]]:
    """Measurements by table, both in the order measured."""
    groups: dict[GroupKey, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(group_key(measurement, along), []).append(measurement)
    return groups


def windows_together(
    measurements: Iterable[Measurement], along: Along = "seqlen"
) -> dict[GroupKey, list[Measurement]]:
    """`group_measurements`, all windows of a problem in one group; the key has the one that all have."""
    groups: dict[GroupKey, list[Measurement]] = {}
    for row in measurements:
        key = group_key(row, along)
        groups.setdefault(key._replace(problem=without_window(key.problem)), []).append(row)
    keys = {key: {group_key(row, along) for row in rows} for key, rows in groups.items()}
    return {(keys[key].pop() if len(keys[key]) == 1 else key): rows for key, rows in groups.items()}


def without_window(problem: AttentionProblem) -> AttentionProblem:
    """The same problem, all keys of it visible that were not but for a window."""
    return msgspec.structs.replace(problem, window_left=None, window_right=None)


def has_windows(measurements: Iterable[Measurement]) -> bool:
    """Whether any of these is of a window."""
    return any("window" in row.problem.features for row in measurements)


def problem_line(key: GroupKey) -> str:
    """`forward, causal, window 256, float64, head_dim 64, 8 heads over 2, batch 1`."""
    problem = key.problem
    heads = counted(problem.num_heads, "head")
    if problem.num_kv_heads != problem.num_heads:
        heads += f" over {problem.num_kv_heads}"
    causal = "" if "window" in problem.features else "full"
    if problem.causal:
        causal = "causal" if problem.causal_alignment == "bottom-right" else "causal top-left"
    if key.along == "head_dim":
        size = f"N {length_word(problem)}"
    else:
        size = f"head_dim {problem.head_dim}"
        if problem.head_dim_v != problem.head_dim:
            size += f" (v {problem.head_dim_v})"
    words = [DIRECTION_WORDS[key.direction], *filter(None, [causal])]
    if key.along == "keys":
        words = [f"decode {counted(problem.seqlen_q, 'query')}", *(["causal"] if problem.causal else [])]
    words += feature_words(problem, unit="" if key.along == "head_dim" else " %")
    words += [problem.dtype, size, heads, f"batch {problem.batch}"]
    if problem.softmax_scale is not None:
        words.append(f"scale {problem.softmax_scale:g}")
    return ", ".join(words)


def axis_word(problem: AttentionProblem, along: Along) -> str:
    """Where along the table a problem stands."""
    words = {"seqlen": length_word(problem), "keys": str(problem.seqlen_k), "head_dim": str(problem.head_dim)}
    return words[along]


def block_word(measurement: Measurement) -> str:
    """As asked for, then as used where that differs: `64`, `auto (8 x 48)`; empty without blocks."""
    label = block_label(measurement)
    if not label or measurement.block_q is None or measurement.block_k is None:
        return label
    used = blocks_word(measurement.block_q, measurement.block_k)
    return label if used == label else f"{label} ({used})"


def threads_word(measurements: Iterable[Measurement]) -> str:
    """`2 threads`, or `1 to 2 threads` where they differ; empty when not known."""
    counts = sorted({row.threads for row in measurements if row.threads is not None})
    if not counts:
        return ""
    return counted(counts[0], "thread") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} threads"


def heading(results: Results) -> list[RenderableType]:
    """The study's title if it has one, and the machine."""
    title = results.config.get("title")
    lines: list[RenderableType] = [Text(str(title), style="bold underline")] if title else []
    shares = [row.rates.percent_of_bandwidth for row in results.measurements if row.rates]
    with_bandwidth = any(share is not None for share in shares)
    return [*lines, _machine_lines(results.machine, with_bandwidth=with_bandwidth)]


def _machine_lines(machine: Machine, *, with_bandwidth: bool) -> Text:
    """The CPU on one line and, when measured, what `% Peak` and `% Bandwidth` are shares of below it."""
    cores = None if machine.cores is None else counted(machine.cores, "core")
    lines = ", ".join(filter(None, (machine.cpu, machine.isa, cores)))
    if machine.peak_gflops:
        threads = f", {counted(machine.peak_threads, 'thread')}" if machine.peak_threads else ""
        peaks = ", ".join(f"{gflops:.0f} {dtype}" for dtype, gflops in machine.peak_gflops.items())
        lines += f"\nFMA peak (measured{threads}), GFLOP/s: {peaks}"
    if with_bandwidth and machine.read_bandwidth_gbps is not None:
        lines += f"\nread bandwidth of memory (measured), GB/s: {machine.read_bandwidth_gbps:.1f}"
    return Text(lines, style="dim")


def status_cell(measurement: Measurement) -> Text:
    """What stands in place of a figure that is not there."""
    style = "yellow" if measurement.status in ("unsupported", "too_large") else "bold red"
    return Text(STATUS_WORDS.get(measurement.status, ""), style=style)


def reason_lines(measurements: Iterable[Measurement], along: Along = "seqlen") -> list[Text]:
    """One line per engine, status and reason of the rows that are not ok, with the rows it holds for."""
    places: dict[tuple[str, str, str, str], list[str]] = {}
    for row in measurements:
        if row.status != "ok":
            key = (
                row.engine,
                block_word(row),
                STATUS_WORDS[row.status],
                row.reason or "no reason was recorded",
            )
            places.setdefault(key, []).append(axis_word(row.problem, along))
    lines = []
    for (engine, block, status, reason), where in places.items():
        name = f"{engine}, block {block}" if block else engine
        places_word = ", ".join(dict.fromkeys(where))
        lines.append(Text(f"{name} at {places_word}: {status}: {reason}", style="dim"))
    return lines


def note_lines(measurements: Iterable[Measurement], along: Along = "seqlen") -> list[Text]:
    """One line per engine and note on what it really ran, with the rows it holds for."""
    places: dict[tuple[str, str], list[str]] = {}
    for row in measurements:
        if row.note is not None:
            places.setdefault((row.engine, row.note), []).append(axis_word(row.problem, along))
    return [
        Text(f"{engine} at {', '.join(dict.fromkeys(where))}: {note}", style="dim")
        for (engine, note), where in places.items()
    ]


def outlier_lines(measurements: Iterable[Measurement]) -> list[Text]:
    """How many calls lie far outside, in one line; none where there are none."""
    times = [row.time for row in measurements if row.time is not None]
    outliers = sum(time.outliers for time in times)
    calls = sum(len(process) for time in times for process in time.samples_ns)
    if not outliers:
        return []
    words = f"{outliers} of {calls} calls lie 3 interquartile ranges or more outside; none is left out"
    return [Text(words, style="dim")]


def verdict_counts(verdicts: Iterable[Verdict], words: Mapping[Verdict, str] = MappingProxyType({})) -> str:
    """`1 regressed, 3 same`: the worst first; `words` for those that are not called as they are recorded."""
    counts = Counter(verdicts)
    return ", ".join(
        f"{counts[verdict]} {words.get(verdict, verdict)}" for verdict in VERDICT_STYLES if counts[verdict]
    )


def markdown_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    left: Container[int] | None = None,
    empty: str = "-",
) -> str:
    """As GitHub renders it: every text as it is, of a bold style bold; `empty` stands for no text.

    Figures are to the right, the last column, which is words, to the left, unless `left` numbers the
    columns that are.
    """
    to_left = [len(headers) - 1] if left is None else left
    lines = [
        [escape_markdown(_unbroken(header), in_cell=True) for header in headers],
        [":--" if index in to_left else "--:" for index in range(len(headers))],
        *([_markdown_cell(cell) or empty for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown_cell(cell: str | Text) -> str:
    word = escape_markdown(str(cell), in_cell=True)
    return f"**{word}**" if word and isinstance(cell, Text) and "bold" in str(cell.style) else word


def statuses_line(measurements: Iterable[Measurement]) -> str:
    """`2 crashed, 1 too large`; what is ok but was not timed is `no time`."""
    counts = Counter(STATUS_WORDS.get(row.status, "no time") for row in measurements)
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def counted(count: int, word: str) -> str:
    """`1 head`, `2 heads`, `2 queries`."""
    if count != 1:
        word = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{count} {word}"
