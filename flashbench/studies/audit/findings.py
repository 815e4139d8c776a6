"""What can be wrong with an engine."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from flashbench.problem import AttentionProblem

Kind = Literal[
    "ignores",  # it answers the problem without a feature: `subject`
    "misreads",  # it answers the problem with a feature read in another way: `subject`
    "unseeing rows",  # a row that sees no key has another result than 0
    "leaks",  # what a row does not see changes its result
    "spreads NaN",  # a NaN or an infinity that a row does not see reaches its result
    "loses NaN",  # one that it sees does not
    "saturates",  # a sum over many keys stops growing
    "narrow arithmetic",  # its errors are those of a narrower dtype: `subject`
    "inaccurate",  # none of these
    "raises",
    "unsteady",  # another run gave another result
    "malformed",  # a result of another type, shape or dtype, or an input that it wrote to
]


class Explanation(NamedTuple):
    """Of one wrong result."""

    kind: Kind
    subject: str = ""  # words; the kind says of what


class Finding(msgspec.Struct, frozen=True):  # a Record would make one line of a program
    """One thing that is wrong with an engine, and the smallest case that shows it."""

    engine: str
    kind: Kind
    subject: str
    cases: int  # failed cases that it explains
    case: str  # the name of the one that was made smaller
    problem: AttentionProblem  # after that
    reason: str  # what is wrong there, in one line
    script: str | None = None  # a program that shows it without flashbench
