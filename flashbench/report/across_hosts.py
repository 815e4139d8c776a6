"""Hosts against their peers as tables for a terminal, as Markdown for a pull request, or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.across_hosts import AcrossHosts, Node, RowFinding
from flashbench.analysis.groups import grouped
from flashbench.analysis.host_limits import HostLimit
from flashbench.analysis.host_times import UNDECIDED, HostTime, HostVerdict
from flashbench.analysis.words import counted
from flashbench.report.escapes import escape_markdown, markdown_list
from flashbench.report.grid import Column, Grid, Section, grid_of, when
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.report.units import format_p, format_wide_ratio
from flashbench.texts import indented_json

# The worst first.
HOST_TONES: Mapping[HostVerdict, Tone] = {
    "slower": Tone.BAD,
    "failed": Tone.BAD,
    UNDECIDED: Tone.DOUBTFUL,
    "faster": Tone.GOOD,
    "same": Tone.PLAIN,
}
LEGEND = (
    "ratios are to the middle host of its CPU; time: pseudo-median over rows; p: Mann-Whitney over rounds, "
    "adjusted for the hosts (Holm); peak: the lowest of its dtypes"
)


def across_report(across: AcrossHosts) -> RenderableType:
    """The verdicts for a terminal."""
    parts: list[RenderableType] = [*map(Line, _preface(across))]
    for section in _sections(across):
        parts += section.parts()
    return Group(*parts, Text(), Text(across_summary(across)))


def across_markdown(across: AcrossHosts) -> str:
    """The verdicts as GitHub renders them."""
    blocks = [f"**{across_summary(across)}**", markdown_list(_preface(across))]
    for section in _sections(across):
        blocks += [escape_markdown(f"{section.title}:"), *section.markdown()]
    return "\n\n".join(filter(None, blocks)) + "\n"


def across_json(across: AcrossHosts) -> str:
    """All figures of every host."""
    return indented_json(msgspec.to_builtins(across) | {"exit_code": across.exit_code}).decode()


def across_summary(across: AcrossHosts) -> str:
    """`8 hosts, allowing 5%: 1 slower, 7 same`."""
    counts = Counter(node.verdict for node in across.nodes)
    listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in HOST_TONES if counts[verdict])
    return f"{counted(len(across.nodes), 'host')}, allowing {100 * across.fail_over:g}%: {listed}"


def node_lines(node: Node) -> Iterator[str]:
    """What the figures of a host do not show: where it is slower, and why it cannot be told."""
    slower = [finding for finding in node.findings if finding.time]
    if len(slower) == node.rows > 1:
        ratios = [finding.time.ratio for finding in slower if finding.time]
        span = f"{format_wide_ratio(min(ratios))} to {format_wide_ratio(max(ratios))}"
        yield f"slower in each of {node.rows} rows, {span}"
    elif slower:
        if node.time is not None and node.time.verdict == "slower":
            yield f"slower in {node.rows} rows together, and by itself in {len(slower)}: {_listed(slower)}"
        else:
            yield f"slower in {len(slower)} of {node.rows} rows: {_listed(slower)}"
    if more := [finding for finding in node.findings if finding.memory_ratio is not None]:
        yield f"more memory: {_listed(more)}"
    for (title, failure), rows in grouped(
        (finding for finding in node.findings if finding.failure), lambda one: (one.title, one.failure)
    ).items():
        yield f"failed, and right on a peer: {title}: {', '.join(row.place for row in rows)}: {failure}"
    for limit in node.limits:
        if limit.verdict != "same":
            reason = f": {limit.reason}" if limit.reason else ""
            yield f"{limit.name} {format_wide_ratio(limit.ratio)}, {limit.value:.4g} {limit.unit}{reason}"
    if node.time is not None and node.time.reason is not None:
        yield f"time {UNDECIDED}: {node.time.reason}"
    yield from node.reasons


def time_cell(time: HostTime | None) -> Cell:
    """Time over that of the middle host."""
    return NOTHING if time is None else Cell(format_wide_ratio(time.ratio), HOST_TONES[time.verdict])


def lowest_peak(node: Node) -> HostLimit | None:
    """The lowest of the peaks of its dtypes and paths, compared with its peers'."""
    peaks = [limit for limit in node.limits if limit.unit == "GFLOP/s"]
    return min(peaks, key=lambda limit: limit.ratio, default=None)


def bandwidth(node: Node) -> HostLimit | None:
    """Its read bandwidth."""
    return next((limit for limit in node.limits if limit.unit == "GB/s"), None)


def limit_cell(limit: HostLimit | None) -> Cell:
    """A limit over that of the middle host."""
    return NOTHING if limit is None else Cell(format_wide_ratio(limit.ratio), HOST_TONES[limit.verdict])


def memory_cell(node: Node) -> Cell:
    """Memory over that of the middle host."""
    if node.memory_ratio is None:
        return NOTHING
    more = any(finding.memory_ratio is not None for finding in node.findings)
    return Cell(format_wide_ratio(node.memory_ratio), HOST_TONES["slower" if more else "same"])


def _sections(across: AcrossHosts) -> Iterator[Section]:
    """A table for each group of peers, and one for the hosts of a CPU that have none."""
    tables = grouped(across.nodes, lambda node: (node.cpu, node.group if node.peers else None))
    for (cpu, group), nodes in tables.items():
        alone = ", without peers" if group is None else ""
        yield Section(f"{cpu}: {counted(len(nodes), 'host')}{alone}", _grid(nodes), list(_lines(nodes)))


def _lines(nodes: Sequence[Node]) -> Iterator[Line]:
    said = ((node.host, line) for node in nodes for line in node_lines(node))
    for line, pairs in grouped(said, lambda pair: pair[1]).items():
        every = len(pairs) == len(nodes) > 1
        hosts = "each host" if every else ", ".join(host for host, _ in pairs)
        yield Line(f"{hosts}: {line}")


def _grid(nodes: Sequence[Node]) -> Grid:
    times = [node.time for node in nodes]
    columns = [
        Column("Host", [Cell(node.host, brief=node.host.partition(".")[0]) for node in nodes], left=True),
        *when(
            any(times),
            Column("Rounds", [NOTHING if time is None else str(time.rounds) for time in times]),
            Column("Time\nratio", list(map(time_cell, times))),
            Column(
                "95%\ninterval",
                [
                    NOTHING if time is None or time.low is None else f"{time.low:.2f}-{time.high:.2f}"
                    for time in times
                ],
            ),
            Column("p", [NOTHING if time is None else format_p(time.p_holm) for time in times]),
        ),
        *when(
            any(node.memory_ratio is not None for node in nodes),
            Column("Mem\nratio", [memory_cell(node) for node in nodes]),
        ),
        *when(
            any(map(bandwidth, nodes)),
            Column("Read\nratio", [limit_cell(bandwidth(node)) for node in nodes]),
        ),
        *when(
            any(map(lowest_peak, nodes)),
            Column("Peak\nratio", [limit_cell(lowest_peak(node)) for node in nodes]),
        ),
        Column("Verdict", [Cell(node.verdict, HOST_TONES[node.verdict]) for node in nodes], left=True),
    ]
    return grid_of(columns)


def _preface(across: AcrossHosts) -> list[str]:
    return [LEGEND, *(f"note: {remark}" for remark in across.remarks)]


def _listed(findings: Sequence[RowFinding]) -> str:
    """`flash, forward, full: 4096 1.31x, 8192 1.29x`."""
    return "; ".join(
        f"{title}: {', '.join(f'{row.place} {format_wide_ratio(_ratio(row))}' for row in rows)}"
        for title, rows in grouped(findings, lambda finding: finding.title).items()
    )


def _ratio(finding: RowFinding) -> float:
    ratio = finding.time.ratio if finding.time else finding.memory_ratio
    assert ratio is not None, "a finding that is listed has one of the two"
    return ratio
