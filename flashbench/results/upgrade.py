"""Convert older results files to today's records: one step for each version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _from_1(document: dict[str, Any]) -> None:
    """To version 2. Version 1 listed the bursts of its only process; version 2 has a list for each process.

    Version 1 measured a process's growth from a level that still held an earlier call's outputs.
    """
    for row in document.get("measurements", ()):
        memory = row.get("memory")
        if memory is not None and memory.get("resident_delta_bytes") is not None:
            memory["resident_delta_bytes"] += memory["output_bytes"]
        time = row.get("time")
        if time is not None:
            samples = [sample for burst in time["samples_ns"] for sample in burst]
            time["samples_ns"] = [samples] if samples else []
            time["minimum_ns"] = min(samples, default=None)


# version -> the function that converts a document to the next version, in place
STEPS: dict[int, Callable[[dict[str, Any]], None]] = {1: _from_1}


def upgrade(document: dict[str, Any], newest: int) -> dict[str, Any]:
    """The document as version `newest` writes it. The caller has checked that STEPS has every step."""
    for version in range(document["schema_version"], newest):
        STEPS[version](document)
    return document | {"schema_version": newest}
