"""Older results files as the records of today: one step a version, from the oldest up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _from_1(document: dict[str, Any]) -> None:
    """Version 1 listed the bursts of a single process: of processes there was one.

    Its growth of a process began from a level that still held the outputs of an earlier call.
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


# version -> what makes the next one of it, in place
STEPS: dict[int, Callable[[dict[str, Any]], None]] = {1: _from_1}


def upgrade(document: dict[str, Any], newest: int) -> dict[str, Any]:
    """The document as version `newest` writes it. The caller has checked that it can be."""
    for version in range(document["schema_version"], newest):
        STEPS[version](document)
    return document | {"schema_version": newest}
