"""A line that names the host whose results follow."""

from __future__ import annotations

from rich.text import Text

from flashbench.results.record import Results


def host_line(results: Results) -> Text:
    """`host node1`."""
    return Text.assemble("host ", (results.machine.host, "bold"))
