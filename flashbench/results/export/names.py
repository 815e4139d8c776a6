"""The name of a measurement outside this project: the same in every format, on every day."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from flashbench.problem import AttentionProblem
from flashbench.results.record import Measurement, Results

# Of sequences, that a name lists.
MOST_LENGTHS = 8
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
    settings = results.config.get("study", results.config)  # a duel keeps its study's settings apart
    return bool(settings.get("cold", False))


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
    if "window" in problem.features:
        sides = (problem.window_left, problem.window_right)
        left, right = ("none" if keys is None else keys for keys in sides)
        yield f"window:{left}" if problem.causal or left == right else f"window:{left}-{right}"
    if problem.softcap is not None:
        yield f"softcap:{problem.softcap!r}".removesuffix(".0")
    if problem.alibi:
        yield "alibi"
    if problem.sinks:
        yield "sinks"
    if problem.mask is not None:
        yield f"mask:{problem.mask}" + (f"-{problem.mask_axes}" if problem.mask_axes else "")
        if problem.mask == "block":
            yield f"mask_block:{problem.mask_block_q}x{problem.mask_block_k}"
    if problem.dropout:
        yield f"dropout:{problem.dropout!r}"
        if problem.dropout_seed:
            yield f"dropout_seed:{problem.dropout_seed}"
    if problem.query_lengths is not None:
        yield f"varlen:{_lengths(problem.query_lengths)}"
    if problem.key_lengths is not None and problem.key_lengths != problem.query_lengths:
        yield f"key_lengths:{_lengths(problem.key_lengths)}"
    if problem.page_size is not None:
        yield f"page_size:{problem.page_size}"


def _lengths(lengths: Sequence[int]) -> str:
    """`64+128+512`; of many their number, shortest, longest and a digest, for names have a longest length."""
    if len(set(lengths)) == 1:
        return f"{lengths[0]}"
    listed = "+".join(map(str, lengths))
    if len(lengths) <= MOST_LENGTHS:
        return listed
    digest = hashlib.sha256(listed.encode()).hexdigest()[:8]
    return f"{len(lengths)}x{min(lengths)}-{max(lengths)}-{digest}"


def _mask(problem: AttentionProblem) -> str:
    if not problem.causal:
        return "full"
    return "causal" if problem.causal_alignment == "bottom-right" else "causal-top-left"


def _word(engine: str) -> str:
    """A plug-in may call its engine anything: a slash would add a part, a colon a value, other signs would be
    markup where names are shown, and at the beginning a formula.
    """
    return re.sub(r"[^\w.+-]+", "-", engine).lstrip("+-") or "_"
