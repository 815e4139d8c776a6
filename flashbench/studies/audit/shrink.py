"""The smallest case that still fails in the same way: one size or feature less at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from flashbench.engines import Settings
from flashbench.errors import AttentionError
from flashbench.problem import AttentionProblem
from flashbench.studies.cases import Case

_MOST_TRIES = 200
_OFF: dict[str, Any] = {
    "softcap": None,
    "alibi": False,
    "mask": None,
    "sinks": False,
    "dropout": 0.0,
    "window_left": None,
    "window_right": None,
    "causal": False,
    "softmax_scale": None,
}


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """The case, smaller as long as it `fails`."""
    tries = 0
    again = True
    while again:
        again = False
        for smaller in _smaller(case):
            tries += 1
            if tries > _MOST_TRIES:
                return case
            if fails(smaller):
                case, again = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Cases with one thing less, the largest steps first."""
    if case.settings != Settings():
        yield case._replace(settings=Settings())
    for fields in _fields(case.problem):
        try:
            problem = msgspec.convert(msgspec.to_builtins(case.problem) | fields, AttentionProblem)
        except (AttentionError, msgspec.ValidationError):
            continue
        yield case._replace(problem=problem)


def _fields(problem: AttentionProblem) -> Iterator[dict[str, Any]]:
    lengths = problem.key_lengths
    if problem.batch > 1:
        first: dict[str, Any] = {"batch": 1}
        if lengths is not None:
            first["key_lengths"] = lengths[:1]
        if problem.query_lengths is not None:
            first["query_lengths"] = problem.query_lengths[:1]
        yield first
    for name, value in _OFF.items():
        if getattr(problem, name) != value:
            yield {name: value}
    if lengths is not None and not problem.packed and problem.page_size is None:
        yield {"key_lengths": None}
    if problem.num_heads > 1:
        yield {"num_heads": 1, "num_kv_heads": 1}
        if problem.num_kv_heads > 1:
            yield {"num_heads": problem.num_heads // problem.num_kv_heads, "num_kv_heads": 1}
    if lengths is None and problem.query_lengths is None:
        for size in _halves(min(problem.seqlen_q, problem.seqlen_k)):
            yield {"seqlen_q": min(problem.seqlen_q, size), "seqlen_k": min(problem.seqlen_k, size)}
        for name in ("seqlen_q", "seqlen_k"):
            for size in _halves(getattr(problem, name)):
                yield {name: size}
    for size in _halves(problem.head_dim):
        if problem.head_dim == problem.head_dim_v:
            yield {"head_dim": size, "head_dim_v": size}
        yield {"head_dim": size}
    for size in _halves(problem.head_dim_v):
        yield {"head_dim_v": size}


def _halves(size: int) -> Iterator[int]:
    """Smaller sizes, from small to large."""
    for smaller in (1, 2, 4, 8, size // 2, size - 1):
        if 0 < smaller < size:
            yield smaller
