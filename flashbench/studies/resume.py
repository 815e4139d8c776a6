"""A run that was cut short goes on: what its file holds goes back into the rows of the same study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from flashbench.errors import ResultsError
from flashbench.results.one_line import plain_texts
from flashbench.results.record import Kind, Measurement, Results
from flashbench.studies.rows import Row
from flashbench.studies.study import Study
from flashbench.texts import to_json

# How long to go on and what to call it may change from one part of a run to the next.
FREE = ("title", "rounds", "budget_s", "timeout_s", "memory_budget_bytes")
# What went wrong by chance is tried again; what cannot be, cannot be.
TRIED_AGAIN = ("out_of_memory", "timeout", "crashed", "too_large")


def restore(rows: Sequence[Row], earlier: Results, config: dict[str, Any], cpu: str) -> None:
    """Fill the rows with what `earlier` holds of them.

    Raises ResultsError when it is of another study or of another CPU.
    """
    known_config = msgspec.to_builtins(Study()) | earlier.config
    check_same_study(earlier, config, cpu, kind=config["kind"], known_config=known_config)
    known = {key_of(measurement): measurement for measurement in earlier.measurements}
    for row in rows:
        found = known.get(key_of(row.measurement(None)))
        if found is None or found.status in TRIED_AGAIN or found.isa_path not in (None, row.path):
            continue
        row.restore(found)


def check_same_study(
    earlier: Results, config: dict[str, Any], cpu: str, *, kind: Kind, known_config: dict[str, Any]
) -> None:
    """Raises ResultsError when `earlier`, whose settings are `known_config`, is of another study or CPU."""
    if earlier.kind != kind:  # else one of the same settings would take its place
        goes_on = f"flashbench {earlier.kind} --resume goes on with it; or "
        raise ResultsError(
            f"the file to go on with holds a {earlier.kind}, not a {kind}",
            hint=f"{'' if earlier.complete else goes_on}name another file",
        )
    if earlier.hosts and "each_node" not in config:
        raise ResultsError(
            "the unfinished run is of a cluster, and this one is of one machine",
            hint="repeat its --cluster, or name another file",
        )
    if earlier.machine.cpu != cpu:
        raise ResultsError(
            f"the unfinished run is of another machine: {earlier.machine.cpu}, this one is {cpu}",
            hint="name another file",
        )
    # As a file has it; what an older one does not name was as it is by default.
    config = plain_texts(msgspec.json.decode(to_json(config)))
    for name, value in config.items():
        before = known_config.get(name)
        if name not in FREE and before != value:
            raise ResultsError(
                f"the unfinished run is of another study: {name} was {before!r}, now it is {value!r}",
                hint="repeat its options, or name another file",
            )


def key_of(measurement: Measurement) -> tuple[object, ...]:
    """What tells a point of a study from its others, in a file as in a run."""
    return (
        measurement.problem,
        measurement.engine,
        measurement.direction,
        measurement.blocks_asked,
        measurement.path_asked,
        measurement.threads,
    )
