"""A program that shows a finding with NumPy and the library alone, for a report to the library's authors.

It holds the inputs, the formula in float64, and the library's own call. There is one for engines of libraries
whose call is written down here, and for features that the formula here has.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from flashbench.block_mask import BlockMask
from flashbench.engines import Engine
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem
from flashbench.studies.audit.findings import Explanation
from flashbench.studies.audit.library_calls import CALLS
from flashbench.studies.cases import Case
from flashbench.studies.question import Question
from flashbench.tolerances import Output, problem_tolerance

_FORMULA_HAS = frozenset(("window", "softcap", "alibi", "mask", "key_lengths"))
_MOST_NUMBERS = 1 << 16  # of all inputs: more would make no readable program

_HEAD = '''\
"""{title}

{library} on a CPU, beside the formula of attention in float64. Exit code 1: they differ.
"""

import base64
import sys

import numpy as np
{imports}

def stored(text, dtype, *shape):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape).copy()


def wide(x):
    """float64; bfloat16 is stored as its bits."""
    return ((x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x).astype(np.float64)


'''
_FORMULA = '''\
def visible():
    """(batch, heads, queries, keys): True where a query sees a key."""
    i, j = np.arange({seqlen_q})[:, None], np.arange({seqlen_k})
    seen = np.ones(({batch}, {heads}, {seqlen_q}, {seqlen_k}), bool)
{visible}    return seen


def expected(q, k, v, do):
    """o, lse, dq, dk and dv by the formula. What a query does not see never reaches it, NaN included."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, 1) for x in (k, v))
    seen = visible()
    s = np.zeros(seen.shape)
    for b, h, i, j in np.argwhere(seen):
        s[b, h, i, j] = {scale!r} * (q[b, h, i] @ k[b, h, j])
    slope = 1.0
{scores}    s = np.where(seen, s, -np.inf)
    top = s.max(-1, keepdims=True)
    p = np.exp(s - np.where(np.isneginf(top), 0, top))
    total = p.sum(-1, keepdims=True)
    lse = (np.where(np.isneginf(top), 0, top) + np.log(total))[..., 0]
    p = np.where(seen, p / np.where(total == 0, 1, total), 0)
    o, dp = np.zeros((*q.shape[:3], v.shape[3])), np.zeros(p.shape)
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for b, h, i, j in np.argwhere(seen):
        o[b, h, i] += p[b, h, i, j] * v[b, h, j]
        dv[b, h, j] += p[b, h, i, j] * do[b, h, i]
        dp[b, h, i, j] = do[b, h, i] @ v[b, h, j]
    ds = {scale!r} * slope * p * (dp - (do * o).sum(-1, keepdims=True))
    for b, h, i, j in np.argwhere(seen):
        dq[b, h, i] += ds[b, h, i, j] * k[b, h, j]
        dk[b, h, j] += ds[b, h, i, j] * q[b, h, i]
    dk, dv = (x.reshape(x.shape[0], -1, group, *x.shape[2:]).sum(2) for x in (dk, dv))
    return dict(o=o, lse=lse, dq=dq, dk=dk, dv=dv)


'''
_TAIL = """\
with np.errstate(all="ignore"):
    right = expected(*map(wide, (q, k, v, do)))
    found = {{name: np.asarray(x, np.float64) for name, x in computed(q, k, v, do).items()}}
    wrong = False
    for name, tolerance in {tolerances!r}.items():
        if name not in found:
            continue
        same = (found[name] == right[name]) | (np.isnan(found[name]) & np.isnan(right[name]))
        off = np.where(same, 0, np.abs(found[name] - right[name]))
        place = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
        print(f"{{name}}: at {{tuple(map(int, place))}} {{found[name][place]:.17g}}, by the formula "
              f"{{right[name][place]:.17g}}; tolerance {{tolerance:.2g}}")
        wrong |= not off[place] <= tolerance
sys.exit(int(wrong))
"""


def script_of(engine: Engine, case: Case, explanation: Explanation) -> str | None:
    """The program, or None: no call of this engine, or no formula for these features, is known here."""
    problem, call = case.problem, CALLS.get(engine.name)
    question = Question(case)
    extras = question.extras
    numbers = sum(x.size for x in question.inputs)
    if call is None or numbers > _MOST_NUMBERS or not problem.features <= _FORMULA_HAS or problem.packed:
        return None
    imports, computed = call(problem)
    arrays = dict(zip(("q", "k", "v", "do"), question.inputs, strict=True)) | _extra_arrays(problem, extras)
    lines = [f"{name} = {_stored(x)}\n" for name, x in arrays.items()]
    sizes = {"batch": problem.batch, "heads": problem.num_heads, "seqlen_q": problem.seqlen_q,
             "seqlen_k": problem.seqlen_k, "scale": problem.scale}  # fmt: skip
    formula = _FORMULA.format(visible=_visible(problem), scores=_scores(problem), **sizes)
    title = f"{engine.name}: {explanation.kind} {explanation.subject}".rstrip() + "."
    return (
        _HEAD.format(title=title, library=engine.name, imports=imports)
        + "".join(lines)
        + "\n\n"
        + formula
        + computed
        + "\n\n"
        + _TAIL.format(tolerances=_tolerances(case, question))
    )


def _tolerances(case: Case, question: Question) -> dict[str, float]:
    names: tuple[Output, ...] = ("o", "lse", "dq", "dk", "dv") if case.backward else ("o", "lse")
    return {
        name: float(
            problem_tolerance(
                case.problem,
                name,
                sizes=case.sizes,
                largest_lse=question.largest_lse,
                naive=question.naive.get(name),
            )
        )
        for name in names
    }


def _stored(x: Any) -> str:
    x = np.ascontiguousarray(x)
    text = base64.b64encode(x.tobytes()).decode()
    return f'stored("{text}", "{x.dtype.str}", {", ".join(map(str, x.shape))})'


def _extra_arrays(problem: AttentionProblem, extras: Extras) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if extras.alibi_slopes is not None:
        found["slopes"] = extras.alibi_slopes
    if extras.mask is not None:
        full = problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k
        mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
        found["mask"] = np.broadcast_to(mask, full)
    if problem.key_lengths is not None:
        found["lengths"] = np.array(problem.key_lengths, np.int32)
    return found


def _offset(problem: AttentionProblem) -> str:
    """An expression: the key at which the first query of each sequence stands."""
    if problem.causal_alignment == "top-left":
        return "0"
    if problem.key_lengths is None:
        return str(problem.seqlen_k - problem.seqlen_q)
    return f"(lengths[:, None, None, None] - {problem.seqlen_q})"


def _visible(problem: AttentionProblem) -> str:
    lines = []
    right = 0 if problem.causal else problem.window_right
    if right is not None:
        lines.append(f"seen &= j <= i + {_offset(problem)} + {right}")
    if problem.window_left is not None:
        lines.append(f"seen &= j >= i + {_offset(problem)} - {problem.window_left}")
    if problem.key_lengths is not None:
        lines.append("seen &= j < lengths[:, None, None, None]")
    if problem.mask == "float":
        lines.append("seen &= ~np.isneginf(mask)")
    elif problem.mask is not None:
        lines.append("seen &= mask")
    return "".join(f"    {line}\n" for line in lines)


def _scores(problem: AttentionProblem) -> str:
    lines = []
    if problem.softcap is not None:
        cap = problem.softcap
        lines += [f"s = {cap!r} * np.tanh(s / {cap!r})", f"slope = 1 - (s / {cap!r}) ** 2"]
    if problem.alibi:
        place = f"np.arange({problem.seqlen_q})[:, None] + {_offset(problem)} - np.arange({problem.seqlen_k})"
        lines.append(f"s = s - wide(slopes)[:, :, None, None] * abs({place})")
    if problem.mask == "float":
        lines.append("s = s + wide(mask)")
    return "".join(f"    {line}\n" for line in lines)
