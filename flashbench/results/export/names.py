"""The name of a measurement outside this project: the same in every format, on every day."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from flashbench.features import FEATURES
from flashbench.problem import AttentionProblem
from flashbench.results.record import Measurement, Results

DIRECTIONS = {"fwd": "fwd", "bwd": "bwd", "fwd_bwd": "fwd+bwd"}


def named(results: Results) -> list[tuple[str, Measurement]]:
    """Every measurement under its name, in the order measured.

    A history lives by its names: each is made of its own measurement and of how the file was measured, so
    none changes when another one joins or leaves the file. Only a measurement that repeats an earlier one
    says which it is: `/run:2`.
    """
    cold = with_cold_caches(results)
    seen: Counter[str] = Counter()
    rows = []
    for row in results.measurements:
        name = benchmark_name(row, cold=cold)
        seen[name] += 1
        rows.append((name if seen[name] == 1 else f"{name}/run:{seen[name]}", row))
    return rows


def with_cold_caches(results: Results) -> bool:
    """Whether the caches were emptied before every call."""
    return bool(results.study.get("cold", False))


def benchmark_name(row: Measurement, *, cold: bool = False) -> str:
    """`flash/fwd/N:1024/heads:8/head_dim:64/batch:1/float32/causal/block:auto/threads:2`.

    As google-benchmark writes arguments, so that a filter such as `flash/fwd/.*/causal` picks some. What
    is nothing special is not there: kv_heads equal to heads, v's head_dim equal to q's, features that are
    off, the usual scale, warm caches.
    """
    parts = [_word(row.engine), DIRECTIONS[row.direction], *_problem_parts(row.problem)]
    asked = row.blocks_asked
    if asked is not None:
        # As asked for, not as used: what `auto` chooses may change with a version, and is then the news.
        parts.append("block:auto" if asked == "auto" else f"block:{asked[0]}x{asked[1]}")
    if row.path_asked is not None:
        parts.append(f"path:{_word(row.path_asked)}")
    if row.threads is not None:
        parts.append(f"threads:{row.threads}")
    if cold:
        parts.append("cold")
    if row.side is not None:
        parts.append(f"side:{row.side}")
    return "/".join(parts)


def _problem_parts(problem: AttentionProblem) -> list[str]:
    square = problem.seqlen_q == problem.seqlen_k
    parts = [
        f"N:{problem.seqlen_q}" if square else f"N:{problem.seqlen_q}x{problem.seqlen_k}",
        f"heads:{problem.num_heads}",
    ]
    if problem.num_kv_heads != problem.num_heads:
        parts.append(f"kv_heads:{problem.num_kv_heads}")
    parts.append(f"head_dim:{problem.head_dim}")
    if problem.head_dim_v != problem.head_dim:
        parts.append(f"head_dim_v:{problem.head_dim_v}")
    parts += [f"batch:{problem.batch}", problem.dtype, _mask(problem), *_feature_parts(problem)]
    if problem.softmax_scale is not None:
        parts.append(f"scale:{problem.softmax_scale!r}")
    return parts


def _feature_parts(problem: AttentionProblem) -> Iterator[str]:
    for name, feature in FEATURES.items():
        if name in problem.features:
            yield from feature.name(problem)


def _mask(problem: AttentionProblem) -> str:
    if not problem.causal:
        return "full"
    return "causal" if problem.causal_alignment == "bottom-right" else "causal-top-left"


def _word(engine: str) -> str:
    """A plug-in may call its engine anything: a slash would add a part, a colon a value, other signs would be
    markup where names are shown, and at the beginning a formula.
    """
    return re.sub(r"[^\w.+-]+", "-", engine).lstrip("+-") or "_"
