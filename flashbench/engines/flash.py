"""Engine `flash`: tiled attention with an online softmax, backward by recomputation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flashbench.engines import Array, AttentionGradients, Forward, Layout, Ran, Settings
from flashbench.engines.features import (
    FEATURE_BYTES,
    kernel_features,
    limited,
    mask_shape,
    number_bytes,
    sinks_gradient,
)
from flashbench.engines.flash_decode import decode, decode_bytes, decode_plan, decodes
from flashbench.engines.launch import (
    BYTE,
    address_of,
    aligned_scratch,
    array_table,
    readable,
    sequence_table,
    threads_for,
)
from flashbench.engines.scalar import backward_by_loops, forward_by_loops, workspace_of_loops
from flashbench.engines.tuned import Pass, tuned_blocks
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.blocks import (
    ALIGNMENT,
    Blocks,
    aligned,
    backward_blocks,
    backward_elements,
    feature_numbers,
    forward_blocks,
    forward_elements,
    within_window,
)
from flashbench.kernels.features import SEQUENCE_COLUMNS
from flashbench.kernels.flash_backward import flash_backward
from flashbench.kernels.flash_forward import flash_forward
from flashbench.kernels.flash_mask_gradient import flash_mask_gradient
from flashbench.kernels.threads import run_on_threads
from flashbench.problem import AttentionProblem, Direction, Feature, Sequence

_FORWARD_ARRAYS = 5
_BACKWARD_ARRAYS = 9
_TABLE_ROW_BYTES = 32


class FlashEngine:
    """Numba kernels whose workspace does not grow with seqlen squared."""

    name = "flash"
    summary = "tiled, online softmax, backward by recomputation (Numba, SIMD)"
    layout: Layout = "bhsd"
    features: frozenset[Feature] = frozenset(
        ("window", "softcap", "alibi", "sinks", "mask", "key_lengths", "varlen", "dropout", "block_table")
    )

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        if problem.page_size is None:
            return None
        if direction != "fwd":
            return "keys in pages have no backward"
        if problem.mask == "block" or problem.dropout > 0:
            return "keys in pages go with no block mask and no dropout"
        return None

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        if decodes(problem, settings):
            return decode(problem, settings, q, k, v, extras)
        if not settings.use_simd:
            return forward_by_loops(problem, q, k, v, extras)
        o = np.empty((*problem.q_shape[:3], problem.head_dim_v), dtype=q.dtype)
        lse = np.empty(problem.q_shape[:3], dtype=q.dtype)
        threads, blocks = _forward_plan(problem, settings)
        itemsize = q.itemsize
        stride = _forward_stride(problem, blocks)
        q, k, v = readable(q), readable(k), readable(v)
        table = array_table(q, k, v, o, lse[..., np.newaxis])
        sequences = sequence_table(problem, _tiles(problem, blocks))
        features = kernel_features(problem, extras)
        tickets = np.zeros(1, dtype=np.int64)
        finite = np.zeros(_chains(problem), dtype=np.int64)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type
        tasks = problem.num_heads * _all_tiles(problem, blocks)

        def work(slot: int) -> None:
            flash_forward(
                number(0),
                BYTE,
                itemsize,
                table,
                sequences,
                features.whole,
                features.numbers,
                address_of(tickets),
                address_of(finite),
                scratch_address,
                stride,
                slot,
                tasks,
                problem.num_heads,
                problem.num_heads // problem.num_kv_heads,
                problem.head_dim,
                problem.head_dim_v,
                blocks.block_q,
                blocks.block_k,
            )

        run_on_threads(work, threads)
        del scratch  # it had to live until here: the kernels know only its address
        return Forward(o, lse)

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        if not settings.use_simd:
            return backward_by_loops(problem, do, q, k, v, forward, extras, mask_gradient=mask_gradient)
        dq = np.empty(q.shape, dtype=q.dtype)
        # Keys beyond a sequence's own are nobody's task.
        whole = problem.key_lengths is None
        dk, dv = (np.empty(x.shape, q.dtype) if whole else np.zeros(x.shape, q.dtype) for x in (k, v))
        o, lse = forward.o, forward.lse
        assert lse is not None  # ours gives it, and callers who bring their own must bring it
        dsinks = sinks_gradient(problem, extras, do, o, lse)
        threads, blocks = _backward_plan(problem, settings)
        itemsize = q.itemsize
        stride = _backward_stride(problem, blocks)
        do, q, k, v, o = readable(do), readable(q), readable(k), readable(v), readable(o)
        lse = readable(lse[..., np.newaxis])  # a copy, too, has to live as long as its address is used
        table = array_table(q, k, v, o, lse, do, dq, dk, dv)
        sequences = sequence_table(problem, _tiles(problem, blocks))
        features = kernel_features(problem, extras)
        tickets = np.zeros(_chains(problem) + 1, dtype=np.int64)
        finite = np.zeros(_chains(problem), dtype=np.int64)
        progress = np.zeros(problem.num_heads * _all_tiles(problem, blocks), dtype=np.int64)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type

        def work(slot: int) -> None:
            flash_backward(
                number(0),
                BYTE,
                itemsize,
                table,
                sequences,
                features.whole,
                features.numbers,
                address_of(tickets),
                address_of(progress),
                address_of(finite),
                scratch_address,
                stride,
                slot,
                problem.num_heads,
                problem.num_kv_heads,
                problem.head_dim,
                problem.head_dim_v,
                number(problem.scale),
                blocks.block_q,
                blocks.block_k,
            )

        run_on_threads(work, threads)
        del scratch
        dmask = None
        if mask_gradient and problem.mask == "float":
            dmask = _mask_gradient(problem, settings, extras, do, q, k, v, o, lse)
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """The forward pass's blocks where both directions run, as theirs may differ."""
        if not settings.use_simd:
            return None
        if direction != "bwd" and decodes(problem, settings):
            plan = decode_plan(problem, settings)
            return plan.chunk, plan.block_k
        plan_of = _backward_plan if direction == "bwd" else _forward_plan
        blocks = plan_of(problem, settings)[1]
        return blocks.block_q, blocks.block_k

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Exact for arrays that `readable` need not copy."""
        if not settings.use_simd:
            return workspace_of_loops(problem)
        needs = []
        if direction != "bwd" and decodes(problem, settings):
            needs.append(decode_bytes(problem, settings))
        elif direction != "bwd":
            threads, blocks = _forward_plan(problem, settings)
            scratch = threads * _forward_stride(problem, blocks) + ALIGNMENT
            needs.append(scratch + _FORWARD_ARRAYS * _TABLE_ROW_BYTES + _told_bytes(problem) + 8)
        if direction != "fwd":
            threads, blocks = _backward_plan(problem, settings)
            scratch = threads * _backward_stride(problem, blocks) + ALIGNMENT
            shared = _BACKWARD_ARRAYS * _TABLE_ROW_BYTES + _told_bytes(problem)
            shared += 8 * (1 + _chains(problem) + problem.num_heads * _all_tiles(problem, blocks))
            needs.append(scratch + shared)
        return max(needs)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """None: there is one."""
        return None


def _mask_gradient(
    problem: AttentionProblem,
    settings: Settings,
    extras: Extras,
    do: Array,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    lse: Array,
) -> Array:
    """dmask in the mask's own shape; the arrays are such that a kernel can read them."""
    threads, blocks = _backward_plan(problem, settings)
    shape = mask_shape(problem)
    dmask = np.zeros(shape, dtype=q.dtype)
    table = array_table(q, k, v, o, lse, do, dmask)
    sequences = sequence_table(problem, _tiles(problem, blocks))
    features = kernel_features(problem, extras)
    tickets = np.zeros(1, dtype=np.int64)
    stride = _mask_gradient_stride(problem, blocks)
    scratch, scratch_address = aligned_scratch(threads * stride)
    number = q.dtype.type

    def work(slot: int) -> None:
        flash_mask_gradient(
            number(0),
            BYTE,
            q.itemsize,
            table,
            sequences,
            features.whole,
            features.numbers,
            address_of(tickets),
            scratch_address,
            stride,
            slot,
            shape,
            problem.num_heads,
            problem.num_heads // problem.num_kv_heads,
            problem.head_dim,
            problem.head_dim_v,
            *blocks,
        )

    run_on_threads(work, threads)
    del scratch
    return dmask


def built_in_blocks(problem: AttentionProblem, direction: Pass) -> Blocks:
    """What `flash` chooses by rule, where no table says better."""
    seqlen_q, seqlen_k, window = problem.seqlen_q, problem.seqlen_k, _window(problem)
    if direction == "fwd":
        flops = problem.flops("fwd")
        return forward_blocks(seqlen_q, seqlen_k, problem.head_dim, problem.itemsize, flops, window)
    return backward_blocks(seqlen_q, seqlen_k, problem.head_dim, problem.itemsize, window)


def _window(problem: AttentionProblem) -> int | None:
    """Keys that a query sees at most; None: no limit but the sequence."""
    left, right = problem.window
    return None if left is None or right is None else left + right + 1


def _forward_plan(problem: AttentionProblem, settings: Settings) -> tuple[int, Blocks]:
    threads = threads_for(problem, "fwd", settings)
    blocks = _chosen(problem, "fwd", settings)
    return min(threads, max(1, problem.num_heads * _all_tiles(problem, blocks))), blocks


def _backward_plan(problem: AttentionProblem, settings: Settings) -> tuple[int, Blocks]:
    threads = threads_for(problem, "bwd", settings)
    blocks = _chosen(problem, "bwd", settings)
    return min(threads, max(1, problem.num_heads * _all_tiles(problem, blocks))), blocks


def _chosen(problem: AttentionProblem, direction: Pass, settings: Settings) -> Blocks:
    """The caller's block sizes where given, else the tuned pair, else the rule's; never longer than the
    sequence. A caller who gives one size gets the rule's other: the tuned one goes with its own partner.
    """
    auto = None
    if settings.block_q is None and settings.block_k is None:
        auto = tuned_blocks(problem, direction)
        if auto is not None:
            auto = within_window(auto, problem.seqlen_k, _window(problem))
    auto = auto or built_in_blocks(problem, direction)
    block_q = min(settings.block_q or auto.block_q, problem.seqlen_q)
    block_k = min(settings.block_k or auto.block_k, problem.seqlen_k)
    if problem.mask == "block":  # a tile is part of one of its blocks
        return Blocks(min(block_q, problem.mask_block_q), min(block_k, problem.mask_block_k))
    return Blocks(block_q, block_k)


def _tiles(problem: AttentionProblem, blocks: Blocks) -> Callable[[Sequence], int]:
    """Tiles of queries of one head of a sequence, as kernels count them."""
    if problem.mask == "block":
        per_block = -(-problem.mask_block_q // blocks.block_q)
        return lambda sequence: -(-sequence.seqlen_q // problem.mask_block_q) * per_block
    return lambda sequence: -(-sequence.seqlen_q // blocks.block_q)


def _all_tiles(problem: AttentionProblem, blocks: Blocks) -> int:
    """Tiles of queries of one head, over all sequences."""
    return sum(map(_tiles(problem, blocks), problem.sequences()))


def _numbers(problem: AttentionProblem) -> int:
    return feature_numbers(limited=limited(problem), alibi=problem.alibi)


def _forward_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    """Bytes from one thread's scratch to the next."""
    elements = forward_elements(*blocks, problem.head_dim, problem.itemsize, _numbers(problem))
    return aligned(elements * problem.itemsize)


def _backward_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    elements = backward_elements(
        *blocks,
        problem.head_dim,
        problem.head_dim_v,
        problem.itemsize,
        _numbers(problem),
        softcap=problem.softcap is not None,
    )
    return aligned(elements * problem.itemsize)


def _mask_gradient_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    """With all that any feature needs, and the tile in which gradients are added up."""
    numbers = feature_numbers(limited=True, alibi=True) + blocks.block_k
    elements = backward_elements(*blocks, problem.head_dim, problem.head_dim_v, problem.itemsize, numbers)
    return aligned(elements * problem.itemsize)


def _told_bytes(problem: AttentionProblem) -> int:
    """What tells the kernels of sequences and features."""
    finite = 8 * _chains(problem)
    return problem.batch * SEQUENCE_COLUMNS * 8 + FEATURE_BYTES + number_bytes(problem) + finite


def _chains(problem: AttentionProblem) -> int:
    """Key/value heads: what the backward pass's tasks are chained by."""
    return problem.batch * problem.num_kv_heads
