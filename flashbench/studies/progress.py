"""How far a run is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class HostProgress(NamedTuple):
    """What a host of a cluster does now."""

    host: str
    finished: int  # parts of the study that it measured whole
    part: str | None = None  # in hand; None: none
    label: str = ""  # of the current step
    done: int = 0
    total: int = 0
    left_s: float | None = None  # of the part; None: unknown so far


class Progress(NamedTuple):
    """`done` of `total` steps of a run, a label of the current one, and the seconds left."""

    done: int
    total: int
    label: str
    left_s: float | None = None  # None: unknown so far
    hosts: Sequence[HostProgress] = ()  # of a cluster, whose steps are parts of the study
    news: str | None = None  # one line that a log should keep
