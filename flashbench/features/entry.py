"""What the table of features says of each: one record for a feature, one for an option of the command line.

Neither NumPy nor msgspec is imported here: `--help` reads the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from flashbench.problem import AttentionProblem

# What the words after an option are; `cli/readers.py` has the reader of each.
Value = Literal[
    "flag", "text", "mask", "windows", "whole", "whole or none", "above zero or none", "share", "seed",
    "lengths or none",
]  # fmt: skip


class Option(NamedTuple):
    """An option of profile, sweep and duel, and the key of a study file that takes the same values."""

    flags: str  # `--window`, `--alibi/--no-alibi`
    help: str
    value: Value
    metavar: str | None
    words: tuple[str, ...]  # for shell completion
    parameter: str  # of the command's function
    key: str  # the field of `Study`, and its name in a study file
    fields: tuple[str, ...]  # of the problem, that take the key's value as it is; `Study` makes the others


def option(
    flags: str,
    help: str,
    value: Value = "flag",
    metavar: str | None = None,
    *,
    words: tuple[str, ...] = (),
    key: str | None = None,
    fields: tuple[str, ...] | None = None,
) -> Option:
    """The key has the name of the option unless it says otherwise, and so has the problem's field."""
    parameter = flags.partition("/")[0].removeprefix("--").replace("-", "_")
    key = key or parameter
    return Option(flags, help, value, metavar, words, parameter, key, (key,) if fields is None else fields)


class Feature(NamedTuple):
    """One optional feature, wherever it is asked for, shown or exported. `words` and `name` are called for
    problems that have it on, `columns` for every problem.
    """

    header: str  # of its column in `flashbench engines`
    probes: Mapping[str, Mapping[str, Any]]  # small problems that ask an engine for it, by what each asks for
    options: Sequence[Option]
    words: Callable[[AttentionProblem, str], str]  # in a line about a problem; takes the unit of lengths too
    name: Callable[[AttentionProblem], Iterable[str]]  # its parts of a benchmark's name
    columns: Mapping[str, Callable[[AttentionProblem], Any]]  # of the CSV; None is an empty field


def columns(*names: str) -> dict[str, Callable[[AttentionProblem], Any]]:
    """Columns that are fields of the problem."""
    return {name: attrgetter(name) for name in names}
