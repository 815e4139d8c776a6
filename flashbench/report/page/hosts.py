"""Files of several hosts on the page: a source for each host, and the verdicts on hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flashbench.analysis.across_hosts import AcrossHosts, Node
from flashbench.analysis.groups import Along, table_axis
from flashbench.report.across_hosts import (
    HOST_TONES,
    LEGEND,
    across_summary,
    bandwidth,
    limit_cell,
    lowest_peak,
    memory_cell,
    node_lines,
    time_cell,
)
from flashbench.report.charts.series import Source
from flashbench.report.hosts import across_of
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.tones import Cell
from flashbench.report.units import format_p
from flashbench.results.hosts import each_host

# More lines of one engine cannot be told apart in a chart, and more paragraphs are not read.
MOST_SHOWN = 8
_HEADINGS = (
    Heading("Host", words=True),
    Heading("CPU", words=True),  # if there are several
    Heading("Verdict", words=True),
    Heading("Peers"),
    Heading("Rows"),
    Heading("Rounds"),
    Heading("Time"),
    Heading("Interval"),
    Heading("p, Holm"),
    Heading("Memory"),
    Heading("Read bandwidth"),
    Heading("Peak"),
    Heading("Reason", words=True),
)


class Hosts:
    """The hosts of a page's files: each is a source, as if it had a file of its own."""

    def __init__(self, files: Sequence[Source]) -> None:
        several = len(files) > 1
        self.sources: list[Source] = []
        self.shown: list[Source] = []  # at most MOST_SHOWN of a file, those that stand out first
        self.words: list[str] = []  # a paragraph for each file of hosts
        self.verdicts: list[Table] = []
        for file in files:
            hosts = each_host(file.results)
            if not file.results.hosts:
                self.sources.append(file)
                self.shown.append(file)
                continue
            across = across_of(file.results)
            found = [
                Source(f"{file.name} {each.machine.host}" if several else each.machine.host, each)
                for each in hosts
            ]
            self.sources += found
            self.shown += _shown(found, across)
            name = f"{file.name}: " if several else ""
            self.words.append(name + " ".join(_words(len(hosts), across)))
            if across is not None:
                number = len(self.verdicts) + 1
                caption = "Hosts against their peers" + (f", {file.name}" if several else "")
                self.verdicts.append(_table(f"hosts-{number}", caption, across))


def _shown(hosts: Sequence[Source], across: AcrossHosts | None) -> list[Source]:
    if across is None:  # other points on each host: few in a chart
        return list(hosts)
    same = {node.host for node in across.nodes if node.verdict == "same"}
    first = sorted(hosts, key=lambda host: host.results.machine.host in same)[:MOST_SHOWN]
    shown = [host for host in hosts if host in first]
    # Charts refer to the tables of all hosts, so they need the same axis.
    return shown if _axis(shown) == _axis(hosts) else list(hosts)


def _axis(hosts: Sequence[Source]) -> Along:
    return table_axis(row for host in hosts for row in host.results.measurements)


def _words(hosts: int, across: AcrossHosts | None) -> Iterator[str]:
    if across is None:
        yield f"{hosts} hosts, whose results stand apart."
    else:
        yield f"{across_summary(across)}."
    if across is not None and hosts > MOST_SHOWN:
        yield (
            f"Words, ratios and charts are of {MOST_SHOWN} of them, those that stand out first; the tables "
            "of everything measured have all."
        )


def _table(id_: str, caption: str, across: AcrossHosts) -> Table:
    several = len({node.cpu for node in across.nodes}) > 1
    return make_table(
        id_,
        caption,
        _HEADINGS,
        [_cells(node, several=several) for node in across.nodes],
        notes=[f"{LEGEND[0].upper()}{LEGEND[1:]}.", *across.remarks],
    )


def _cells(node: Node, *, several: bool) -> list[Cell | str]:
    time = node.time
    known = time is not None and time.low is not None and time.high is not None
    return [
        node.host,
        node.cpu if several else "",
        Cell(node.verdict, HOST_TONES[node.verdict]),
        str(node.peers),
        str(node.rows),
        "" if time is None else str(time.rounds),
        "" if time is None else time_cell(time),
        f"{time.low:.3f} to {time.high:.3f}" if time and known else "",
        "" if time is None else format_p(time.p_holm),
        memory_cell(node) if node.memory_ratio is not None else "",
        limit_cell(limit) if (limit := bandwidth(node)) else "",
        limit_cell(limit) if (limit := lowest_peak(node)) else "",
        "; ".join(node_lines(node)),
    ]
