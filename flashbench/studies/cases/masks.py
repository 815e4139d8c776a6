"""Cases of bool, float and block masks, broadcast along different axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flashbench.block_mask import BlockMask, Predicate
from flashbench.dtypes import Dtype
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem, MaskKind
from flashbench.studies.cases.case import Case, ChangeExtras, uneven_problem

AXES = ("k", "q", "qk", "hqk", "bk", "bhqk")
BLOCK_AXES = ("qk", "hqk", "bqk", "bhqk")
BLOCK_SIZES = ((16, 16), (32, 16), (17, 5), (64, 64), (128, 128))
_SHARE = 0.5


def _problem(kind: MaskKind, axes: str, dtype: Dtype, block: tuple[int, int] = (16, 16)) -> AttentionProblem:
    return uneven_problem(dtype, mask=kind, mask_axes=axes, mask_block_q=block[0], mask_block_k=block[1])


def bool_masks(dtype: Dtype) -> Iterator[Case]:
    """Pairs hidden one by one, and rows that see no key."""
    for axes in AXES:
        problem = _problem("bool", axes, dtype)
        yield Case(f"mask-bool-{axes}", "bool masks", problem)
        causal = msgspec.structs.replace(problem, causal=True)
        yield Case(f"mask-bool-{axes}-causal", "bool masks", causal).in_blocks(16, 32)
    for word, rows in (("some-rows", slice(20, 50)), ("all-rows", slice(None))):
        problem = _problem("bool", "hqk", dtype)
        hide = in_mask((..., rows, slice(None)), False)
        case = Case(f"mask-bool-hides-{word}", "bool masks", problem, change_extras=hide)
        yield case
        yield case.in_blocks(16, 16)


def float_masks(dtype: Dtype) -> Iterator[Case]:
    """Numbers added to the logits, where -inf hides; their gradient, summed along broadcast axes."""
    for axes in AXES:
        problem = _problem("float", axes, dtype)
        yield Case(f"mask-float-{axes}", "float masks", problem)
        causal = msgspec.structs.replace(problem, causal=True)
        yield Case(f"mask-float-{axes}-causal", "float masks", causal).in_blocks(16, 32)
    hidden = {
        "some-pairs": (..., slice(None, None, 3), slice(None, None, 2)),
        "some-keys": (..., slice(None), slice(40, None)),
        "some-rows": (..., slice(20, 50), slice(None)),
        "all-rows": ...,
    }
    for word, where in hidden.items():
        problem = _problem("float", "hqk", dtype)
        hide = in_mask(where, -np.inf)
        case = Case(f"mask-float-hides-{word}", "float masks", problem, change_extras=hide)
        yield case
        yield case.in_blocks(16, 16)


def block_masks(dtype: Dtype) -> Iterator[Case]:
    """Whole, partial and hidden blocks of any size, with tiles of any size."""
    for axes in BLOCK_AXES:
        problem = _problem("block", axes, dtype)
        yield Case(f"mask-block-{axes}", "block masks", problem, change_extras=sparse_blocks(problem))
    for sizes in BLOCK_SIZES:
        problem = _problem("block", "hqk", dtype, sizes)
        for causal in (False, True):
            masked = msgspec.structs.replace(problem, causal=causal)
            name = f"mask-block-of-{sizes[0]}x{sizes[1]}{'-causal' if causal else ''}"
            case = Case(name, "block masks", masked, change_extras=sparse_blocks(masked))
            yield case
            yield case.in_blocks(32, 24)
    predicates: dict[str, Predicate] = {
        "documents": lambda b, h, q, k: q // 40 == k // 40,
        "one-block": lambda b, h, q, k: (q // 16 == 1) & (k // 16 == 2),
        "nothing": lambda b, h, q, k: (q < 0) & (k < 0),
        "all": lambda b, h, q, k: (q >= 0) & (k >= 0),
    }
    for word, predicate in predicates.items():
        problem = _problem("block", "qk", dtype)
        yield Case(f"mask-block-{word}", "block masks", problem, change_extras=_where(predicate, problem))


def own_array(mask: NDArray[Any]) -> NDArray[Any]:
    """A writable copy of the array that was broadcast to make the mask."""
    return mask[tuple(slice(None) if stride else slice(1) for stride in mask.strides)].copy()


def in_mask(where: Any, value: float) -> ChangeExtras:
    """Put `value` at `where`, an index into the array that is broadcast to make the mask."""

    def change(extras: Extras) -> Extras:
        assert isinstance(extras.mask, np.ndarray)
        own = own_array(extras.mask)
        own[where] = value
        return extras._replace(mask=np.broadcast_to(own, extras.mask.shape))

    return change


def sparse_blocks(problem: AttentionProblem) -> ChangeExtras:
    """A block mask with half of the blocks hidden and a quarter partial. A row of blocks may see no key."""
    block_q, block_k = problem.mask_block_q, problem.mask_block_k
    heads = tuple(
        size if axis in problem.mask_axes else 1
        for axis, size in zip("bh", (problem.batch, problem.num_heads), strict=True)
    )
    blocks = (*heads, -(-problem.seqlen_q // block_q), -(-problem.seqlen_k // block_k))

    def spread(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        rows = blocks.repeat(block_q, axis=2)[:, :, : problem.seqlen_q]
        return rows.repeat(block_k, axis=3)[..., : problem.seqlen_k]

    def change(extras: Extras) -> Extras:
        rng = np.random.default_rng(1)
        visible, whole = spread(rng.random(blocks) < _SHARE), spread(rng.random(blocks) < _SHARE)
        mask = visible & (whole | (rng.random(visible.shape) < _SHARE))
        return extras._replace(mask=BlockMask.from_mask(mask, (block_q, block_k)))

    return change


def _where(predicate: Predicate, problem: AttentionProblem) -> ChangeExtras:
    def change(extras: Extras) -> Extras:
        block = problem.mask_block_q, problem.mask_block_k
        mask = BlockMask.from_predicate(predicate, problem.seqlen_q, problem.seqlen_k, block=block)
        return extras._replace(mask=mask)

    return change
