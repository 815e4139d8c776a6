"""Cases of each optional feature alone: windows, ALiBi, softcap, sinks, lengths, dropout."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from flashbench.dtypes import Dtype
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem, Window
from flashbench.studies.cases.case import Case, ChangeExtras, each_masking, uneven_problem
from flashbench.tolerances import Sizes

WINDOWS: tuple[Window, ...] = ((0, 0), (3, 5), (40, 0), (0, 40), (None, 7), (7, None), (50, 50), (999, 999))
LENGTHS = ((130, 130), (113, 140), (140, 113), (20, 130), (130, 20))
SOFTCAPS = (0.1, 2.0, 30.0, 1e4)
DROPOUTS = ((0.1, 0), (0.5, 2**64 - 1), (0.9, 12345678901))
# Valid keys, and queries when packed: none, few, all, and more queries than keys.
KEY_LENGTHS = (101, 0, 40, 1, 64)
QUERY_LENGTHS = (30, 16, 0, 67, 1)


def windows(dtype: Dtype) -> Iterator[Case]:
    """Windows on both sides, on one side, of only the diagonal and beyond all keys; rows that see no key."""
    for seqlen_q, seqlen_k in LENGTHS:
        for left, right in WINDOWS:
            problem = AttentionProblem.of(
                seqlen_q,
                seqlen_k=seqlen_k,
                num_heads=2,
                num_kv_heads=1,
                head_dim=16,
                dtype=dtype,
                window=(left, right),
            )
            sides = "-".join("any" if side is None else str(side) for side in (left, right))
            name = f"window-{sides}-len{seqlen_q}x{seqlen_k}"
            yield Case(name, "windows", problem)
            if seqlen_q != seqlen_k:
                top_left = msgspec.structs.replace(problem, causal_alignment="top-left")
                yield Case(f"{name}-top-left", "windows", top_left).in_blocks(16, 32)
            if left is not None and right != 0:
                causal = msgspec.structs.replace(problem, causal=True)
                yield Case(f"{name}-causal", "windows", causal).in_blocks(32, 16)


def alibi(dtype: Dtype) -> Iterator[Case]:
    """Slopes per head, and per head and sequence, with the diagonal at both alignments."""
    for seqlen_q, seqlen_k in ((67, 101), (101, 67), (70, 70)):
        problem = AttentionProblem.of(
            seqlen_q,
            seqlen_k=seqlen_k,
            batch=2,
            num_heads=6,
            num_kv_heads=2,
            head_dim=16,
            dtype=dtype,
            alibi=True,
        )
        for name, masked in each_masking(f"alibi-len{seqlen_q}x{seqlen_k}", problem):
            case = Case(name, "ALiBi", masked)
            yield case
            by_sequence = case._replace(name=f"{name}-by-sequence", change_extras=_slopes_by_sequence)
            yield by_sequence.in_blocks(16, 16)
        top_left = msgspec.structs.replace(problem, causal_alignment="top-left")
        yield Case(f"alibi-len{seqlen_q}x{seqlen_k}-diagonal-top-left", "ALiBi", top_left)


def softcaps(dtype: Dtype) -> Iterator[Case]:
    """Caps below the logits, about as large as they are, and far above."""
    for cap in SOFTCAPS:
        problem = AttentionProblem.of(
            67, seqlen_k=101, num_heads=2, head_dim=20, head_dim_v=12, dtype=dtype, softcap=cap
        )
        for name, masked in each_masking(f"softcap-{cap:g}", problem):
            yield Case(name, "softcap", masked)
            yield Case(f"{name}-logits-x10", "softcap", masked, sizes=Sizes(q=10.0)).in_blocks(16, 16)
    one = AttentionProblem.of(70, num_heads=2, head_dim=16, dtype=dtype, softcap=2.0)
    for name, masked in each_masking("softcap-2-one-head-dim", one):  # some libraries have no other
        yield Case(name, "softcap", masked)


def sinks(dtype: Dtype) -> Iterator[Case]:
    """Sinks with few and many keys, above and below the logits, and alone in rows that see no key."""
    changes: dict[str, ChangeExtras | None] = {
        "made": None,
        "large": lambda extras: _scaled_sinks(extras, 10.0),
        "minus-inf": lambda extras: _scaled_sinks(extras, -np.inf),
    }
    for seqlen_q, seqlen_k in ((67, 101), (101, 67), (70, 1)):
        problem = AttentionProblem.of(
            seqlen_q,
            seqlen_k=seqlen_k,
            batch=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            dtype=dtype,
            sinks=True,
        )
        for word, change in changes.items():
            for name, masked in each_masking(f"sinks-{word}-len{seqlen_q}x{seqlen_k}", problem):
                case = Case(name, "sinks", masked, change_extras=change)
                yield case if word == "made" else case.in_blocks(16, 16)


def lengths(dtype: Dtype) -> Iterator[Case]:
    """Sequences of a batch with all, some or none of their keys as padding."""
    problem = uneven_problem(dtype, batch=len(KEY_LENGTHS), key_lengths=KEY_LENGTHS)
    for name, masked in each_masking("key-lengths-some", problem):
        yield Case(name, "key lengths", masked)
        yield Case(name, "key lengths", masked).in_blocks(16, 32)
    same = msgspec.structs.replace(problem, key_lengths=(33,) * problem.batch, causal=True)
    yield Case("key-lengths-all-alike", "key lengths", same)
    none = msgspec.structs.replace(problem, key_lengths=(0,) * problem.batch)
    yield Case("key-lengths-all-zero", "key lengths", none)


def packed(dtype: Dtype) -> Iterator[Case]:
    """Sequences end to end, some without queries, some without keys."""
    several = {
        "-five": (QUERY_LENGTHS, KEY_LENGTHS),
        "-alone": ((67,), (101,)),
        "-ones": ((1,) * 40, (1,) * 40),
    }
    for word, (query_lengths, key_lengths) in several.items():
        problem = uneven_problem(
            dtype, batch=len(query_lengths), query_lengths=query_lengths, key_lengths=key_lengths
        )
        for name, masked in each_masking(f"packed{word}", problem):
            yield Case(name, "packed", masked)
            yield Case(name, "packed", masked).in_blocks(16, 32)


def dropout(dtype: Dtype) -> Iterator[Case]:
    """Few, half and most of the pairs dropped, with seeds of 32 and of 64 bits."""
    for rate, seed in DROPOUTS:
        problem = uneven_problem(dtype, dropout=rate, dropout_seed=seed)
        for name, masked in each_masking(f"dropout-{rate:g}", problem):
            yield Case(name, "dropout", masked)
            yield Case(name, "dropout", masked).in_blocks(17, 5)
    one = AttentionProblem.of(70, num_heads=2, head_dim=16, dtype=dtype, dropout=0.5)
    for name, masked in each_masking("dropout-0.5-one-head-dim", one):
        yield Case(name, "dropout", masked)


# Beside windows and masks, in the order of their cases.
OTHERS = (alibi, softcaps, sinks, lengths, packed, dropout)


def _slopes_by_sequence(extras: Extras) -> Extras:
    """Different slopes for each sequence; those of the first are zero."""
    assert extras.alibi_slopes is not None
    slopes = (
        extras.alibi_slopes * np.arange(len(extras.alibi_slopes), dtype=extras.alibi_slopes.dtype)[:, None]
    )
    return extras._replace(alibi_slopes=slopes)


def _scaled_sinks(extras: Extras, factor: float) -> Extras:
    assert extras.sinks is not None
    sinks = np.abs(extras.sinks) if np.isinf(factor) else extras.sinks
    return extras._replace(sinks=sinks * sinks.dtype.type(factor))
