"""The kind of problem of a table in words, and the words for one row of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flashbench.analysis.groups import Along, GroupKey
from flashbench.analysis.problem_words import feature_words, length_word
from flashbench.analysis.words import DIRECTION_WORDS, counted
from flashbench.problem import AttentionProblem
from flashbench.results.record import AnyRow, Measurement


def problem_words(key: GroupKey, *, both_directions: bool = False) -> tuple[str, ...]:
    """`("forward", "causal", "window 256", "float64", "head_dim 64", "8 heads over 2", "batch 1")`.

    both_directions: leave the direction out, for a table that shows both.
    """
    return tuple(_words(key, both_directions=both_directions))


def problem_line(key: GroupKey, *, both_directions: bool = False) -> str:
    """`problem_words` as one line."""
    return ", ".join(problem_words(key, both_directions=both_directions))


def _words(key: GroupKey, *, both_directions: bool) -> Iterator[str]:
    problem = key.problem
    if key.along == "keys":
        yield f"decode {counted(problem.seqlen_q, 'query')}"
    elif not both_directions:
        yield DIRECTION_WORDS[key.direction]
    if problem.causal:
        bottom_right = key.along == "keys" or problem.causal_alignment == "bottom-right"
        yield "causal" if bottom_right else "causal top-left"
    elif key.along != "keys" and "window" not in problem.features:
        yield "full"
    yield from feature_words(problem, unit="" if key.along == "head_dim" else " %")
    yield problem.dtype
    yield f"N {length_word(problem)}" if key.along == "head_dim" else _head_dims(problem)
    yield _heads(problem)
    yield f"batch {problem.batch}"
    if problem.softmax_scale is not None:
        yield f"scale {problem.softmax_scale:g}"


def _head_dims(problem: AttentionProblem) -> str:
    of_v = "" if problem.head_dim_v == problem.head_dim else f" (v {problem.head_dim_v})"
    return f"head_dim {problem.head_dim}{of_v}"


def _heads(problem: AttentionProblem) -> str:
    grouped = problem.num_kv_heads != problem.num_heads
    return counted(problem.num_heads, "head") + (f" over {problem.num_kv_heads}" if grouped else "")


def axis_word(problem: AttentionProblem, along: Along) -> str:
    """A problem's place along its table."""
    if along == "head_dim":
        return str(problem.head_dim)
    return str(problem.seqlen_k) if along == "keys" else length_word(problem)


def place_words(problems: Sequence[AttentionProblem], along: Along) -> list[str]:
    """The place of each row along its table; empty if the row above has the same problem."""
    return [
        "" if index and problems[index - 1] == problem else axis_word(problem, along)
        for index, problem in enumerate(problems)
    ]


def places_word(measurements: Iterable[Measurement], along: Along) -> str:
    """`1024, 2048`: the places of these along their table, each once."""
    return ", ".join(dict.fromkeys(axis_word(row.problem, along) for row in measurements))


def threads_word(measurements: Iterable[AnyRow]) -> str:
    """`2 threads`, `1 to 2 threads` if they differ, empty if not known."""
    counts = sorted({row.threads for row in measurements if row.threads is not None})
    if not counts:
        return ""
    return counted(counts[0], "thread") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} threads"
