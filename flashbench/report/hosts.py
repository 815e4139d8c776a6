"""Files of several hosts: the line that names a host above its tables, and the hosts against their peers."""

from __future__ import annotations

from rich.text import Text

from flashbench.analysis.across_hosts import AcrossHosts, across_hosts
from flashbench.errors import ResultsError
from flashbench.results.record import Results


def host_line(results: Results) -> Text:
    """`host node1`. A report's own heading names the CPU."""
    return Text.assemble("host ", (results.machine.host, "bold"))


def across_of(results: Results) -> AcrossHosts | None:
    """The hosts of a file against their peers. None if there is one, or if each measured other points."""
    try:
        return across_hosts([("the file", results)]) if results.hosts else None
    except ResultsError:
        return None
