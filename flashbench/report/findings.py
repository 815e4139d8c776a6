"""Findings of `verify` as paragraphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

from flashbench.analysis.words import counted
from flashbench.problem import AttentionProblem
from flashbench.studies.audit import Finding, Kind

_WIDTH = 100
# What the engine does. {0}: the finding's subject.
_WORDS: dict[Kind, str] = {
    "ignores": ("ignores {0}. Its results are those of the same attention without it, within the tolerance"),
    "misreads": "reads {0}. Its results are right for that, within the tolerance",
    "unseeing rows": (
        "gives rows that see no key another {0} than flashbench, which gives o = 0 and lse = -inf"
    ),
    "leaks": "reads {0}. A row's result changes with keys and values that the row does not see",
    "spreads NaN": (
        "lets a NaN or an infinity reach results of queries or keys that do not see it. A weight of 0 "
        "times a NaN is NaN"
    ),
    "loses NaN": "gives numbers where a NaN or an infinity that a query sees should make one",
    "saturates": (
        "saturates {0}. Over many keys the sum of equal weights stops growing, so that their mean is "
        "wrong by more than a fifth"
    ),
    "narrow arithmetic": (
        "has errors of {0}. They are about as large as those of the same formula computed in it"
    ),
    "inaccurate": (
        "is inaccurate in {0}. No feature that it might leave out, hidden key or narrower dtype explains it"
    ),
    "raises": "raises {0}",
    "unsteady": "differs from call to call: {0}",
    "malformed": "returns what it should not: {0}",
}


def finding_lines(
    findings: Sequence[Finding], scripts: Sequence[str | None] = (), failed: Mapping[str, int] | None = None
) -> list[str]:
    """A paragraph for each, with the smallest case that shows it, and where its program is.

    scripts: the files of the findings' programs, None for one without. failed: failed cases of each engine; a
    line says how many of them no finding explains.
    """
    lines: list[str] = []
    for number, finding in enumerate(findings):
        found = f"Found in {counted(finding.cases, 'failed case')}, the smallest {finding.case}"
        text = f"{finding.engine} {_WORDS[finding.kind].format(finding.subject)}. {found}; made smaller: "
        text += f"{size_words(finding.problem)}. There {finding.reason}."
        lines += [fill(text, _WIDTH, break_on_hyphens=False, break_long_words=False)]
        if number < len(scripts) and scripts[number] is not None:
            lines.append(f"  python {scripts[number]}")
        lines.append("")
    for engine, count in (failed or {}).items():
        left = count - sum(finding.cases for finding in findings if finding.engine == engine)
        if left:
            lines.append(f"{engine}: {counted(left, 'failed case')} not explained, for want of time")
    return lines


def size_words(problem: AttentionProblem) -> str:
    """Sizes, dtype and features of a problem in one line."""
    heads = f"{problem.num_heads} over {problem.num_kv_heads}"
    if problem.num_heads == problem.num_kv_heads:
        heads = str(problem.num_heads)
    dims = (
        str(problem.head_dim)
        if problem.head_dim == problem.head_dim_v
        else (f"{problem.head_dim} and {problem.head_dim_v}")
    )
    parts = [
        f"{problem.seqlen_q} x {problem.seqlen_k}",
        f"{counted(problem.batch, 'sequence')}",
        f"heads {heads}",
        f"head_dim {dims}",
        problem.dtype,
        *(["causal"] if problem.causal else []),
        *sorted(problem.features),
    ]
    return ", ".join(parts)
