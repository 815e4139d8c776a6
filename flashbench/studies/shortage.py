"""What a run did not measure, or measured less often than the rest, before its time budget ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from flashbench.analysis.blocks import block_label
from flashbench.analysis.problem_words import length_word
from flashbench.analysis.words import counted
from flashbench.features.words import window_word
from flashbench.results.record import Results
from flashbench.studies.resume import key_of
from flashbench.studies.rows import Row, rows_of
from flashbench.studies.study import Study

# Points that a line names, because a long run has hundreds.
MOST_NAMED = 6


def shortage_lines(study: Study, results: Results) -> list[str]:
    """One line each for points without a time, with fewer rounds than others, and without their memory.

    Failed points have a reason in the table and are not counted.
    """
    rows = rows_of(replace(study, threads=results.config["threads"]))
    found = {key_of(row): row for row in results.measurements}
    known = [(row, found.get(key_of(row.measurement(None)))) for row in rows]
    asked = [(row, at) for row, at in known if at is None or at.status in ("ok", "wrong")]
    rounds = {id(row): 0 if at is None or at.time is None else len(at.time.samples_ns) for row, at in asked}
    counts = Counter(rounds.values())
    lines = []
    if counts[0]:
        untimed = [row for row, _ in asked if not rounds[id(row)]]
        lines.append(f"not measured, {len(untimed)} of {len(rows)} points: {_named(study, untimed)}")
    if len(counts) - (0 in counts) > 1:
        fewest = min(count for count in counts if count)
        few = [row for row, _ in asked if rounds[id(row)] == fewest]
        most = max(counts)
        lines.append(f"{_rounds(fewest)} only, where others have up to {most}: {_named(study, few)}")
    if study.memory:
        without = [row for row, at in asked if rounds[id(row)] and (at is None or at.memory is None)]
        if without:
            lines.append(
                f"timed without their memory, {len(without)} of {len(rows)} points: {_named(study, without)}"
            )
    return lines


def _rounds(count: int) -> str:
    return f"{count} round" if count == 1 else f"{count} rounds"


def _named(study: Study, rows: Sequence[Row]) -> str:
    """`flash fwd N=4096 causal, block 64; ...`, and how many more."""
    names = list(dict.fromkeys(_name(study, row) for row in rows))
    more = f"; and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more


def _name(study: Study, row: Row) -> str:
    """Names what the study has several values of."""
    problem, engine, direction, _ = row.point
    words = [f"{engine} {direction} N={length_word(problem)}"]
    if len(study.causal) > 1:
        words.append("causal" if problem.causal else "full")
    if len(study.windows) > 1:
        words.append(f"window {window_word(problem)}")
    if len(study.dtypes) > 1:
        words.append(problem.dtype)
    if len(study.heads) > 1:
        words.append(f"heads {problem.num_heads}")
    if len(study.thread_counts) > 1:
        words.append(counted(row.threads, "thread"))
    if len(study.head_dims) > 1:
        words.append(f"head_dim {problem.head_dim}")
    block = block_label(row.measurement(None))
    if block:
        words.append(f"block {block}")
    return ", ".join(words)
