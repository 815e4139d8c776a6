"""The table of formats in which other tools and CI services read results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from flashbench.results.export import bmf, csv, github_action_benchmark, google_benchmark, pyperf
from flashbench.results.record import Measurement, Results


class Format(NamedTuple):
    """How to write results in one format."""

    render: Callable[[Results], str]
    takes: Callable[[Measurement], bool]  # whether the format can hold that measurement
    takes_training: bool = False  # whether the format can hold training steps
    takes_hosts: bool = False  # whether the format says which host measured what


# One line adds a format.
FORMATS: Mapping[str, Format] = {
    "bmf": Format(bmf.render, bmf.takes),
    "github-action-benchmark": Format(github_action_benchmark.render, github_action_benchmark.takes),
    "google-benchmark": Format(google_benchmark.render, google_benchmark.takes),
    "pyperf": Format(pyperf.render, pyperf.takes),
    "csv": Format(csv.render, csv.takes, takes_hosts=True),
}
