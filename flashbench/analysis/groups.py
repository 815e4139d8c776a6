"""Tables of measurements: which rows belong to one table, and what runs down it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Literal, NamedTuple, TypeVar

import msgspec

from flashbench.analysis.decoding import is_decoding
from flashbench.analysis.lengths import with_length
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.record import Measurement

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

# What runs down a table; the last two in tables of whole models.
Along = Literal["seqlen", "keys", "head_dim", "depth", "context"]
# Length in a group's problem if its sequences have lengths of their own: these are then percent of it.
_WHOLE = 100


class GroupKey(NamedTuple):
    """The kind of problem of one table: all of a problem except what runs down the table, and a direction."""

    problem: AttentionProblem
    direction: Direction
    along: Along = "seqlen"


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by their key. Keys and items keep their order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def table_axis(measurements: Iterable[Measurement]) -> Along:
    """Head sizes run down the tables if there are several of them and one length. Otherwise lengths do."""
    problems = [row.problem for row in measurements]
    one_length = len({(problem.seqlen_q, problem.seqlen_k) for problem in problems}) == 1
    return "head_dim" if one_length and len({problem.head_dim for problem in problems}) > 1 else "seqlen"


def group_key(measurement: Measurement, along: Along = "seqlen") -> GroupKey:
    """The table that a measurement belongs to."""
    return problem_key(measurement.problem, measurement.direction, along)


def problem_key(problem: AttentionProblem, direction: Direction, along: Along = "seqlen") -> GroupKey:
    """The table that a problem belongs to. Its problem has 1 in place of what runs down the table.

    Keys run down a table of decoding steps; all its steps have the same number of queries. Lengths of
    single sequences are the same for a table if they are the same shares of the longest.
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
    return grouped(measurements, lambda row: group_key(row, along))


def windows_together(
    measurements: Iterable[Measurement], along: Along = "seqlen"
) -> dict[GroupKey, list[Measurement]]:
    """`group_measurements` with all windows of a problem in one group.

    A group's key has the window that all its rows share. It has none if they differ.
    """
    alike = grouped(measurements, lambda row: _without_window(group_key(row, along)))
    groups = {}
    for key, rows in alike.items():
        first, *others = {group_key(row, along) for row in rows}
        groups[key if others else first] = rows
    return groups


def without_window(problem: AttentionProblem) -> AttentionProblem:
    """The same problem without a window. Causal mask and lengths stay."""
    return msgspec.structs.replace(problem, window_left=None, window_right=None)


def _without_window(key: GroupKey) -> GroupKey:
    return key._replace(problem=without_window(key.problem))


def has_windows(measurements: Iterable[Measurement]) -> bool:
    """Whether any of these has a window."""
    return any("window" in row.problem.features for row in measurements)
