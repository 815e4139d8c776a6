"""How engine `flash` tiles a problem: block sizes, tiles, threads, and the bytes that a call takes."""

from __future__ import annotations

import functools

from flashbench.codegen.scratch import aligned
from flashbench.engines import Settings
from flashbench.engines.features import FEATURE_BYTES, limited, number_bytes
from flashbench.engines.flash.block_sizes import Blocks, backward_blocks, forward_blocks, within_window
from flashbench.engines.flash.tuned import Pass, tuned_blocks
from flashbench.engines.launch import Tasks, threads_for
from flashbench.kernels.call.features import SEQUENCE_COLUMNS
from flashbench.kernels.flash.scratch import backward_elements, feature_numbers, forward_elements
from flashbench.problem import AttentionProblem


@functools.lru_cache(maxsize=1024)  # asked at every call
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


def forward_plan(problem: AttentionProblem, settings: Settings) -> tuple[int, Blocks]:
    threads = threads_for(problem, "fwd", settings)
    blocks = _chosen(problem, "fwd", settings)
    return min(threads, max(1, problem.num_heads * all_tiles(problem, blocks))), blocks


def backward_plan(problem: AttentionProblem, settings: Settings) -> tuple[int, Blocks]:
    threads = threads_for(problem, "bwd", settings)
    blocks = _chosen(problem, "bwd", settings)
    return min(threads, max(1, problem.num_heads * all_tiles(problem, blocks))), blocks


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


def tiles_of(problem: AttentionProblem, blocks: Blocks) -> Tasks:
    """Tiles of queries of one head of a sequence, as kernels count them."""
    if problem.mask == "block":
        per_block = -(-problem.mask_block_q // blocks.block_q)
        return lambda seqlen_q, seqlen_k: -(-seqlen_q // problem.mask_block_q) * per_block
    return lambda seqlen_q, seqlen_k: -(-seqlen_q // blocks.block_q)


def all_tiles(problem: AttentionProblem, blocks: Blocks) -> int:
    """Tiles of queries of one head, over all sequences."""
    tiles = tiles_of(problem, blocks)
    return sum(count * int(tiles(*lengths)) for lengths, count in problem.length_counts.items())


def _numbers(problem: AttentionProblem) -> int:
    return feature_numbers(limited=limited(problem), alibi=problem.alibi)


def forward_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    """Bytes from one thread's scratch to the next."""
    elements = forward_elements(*blocks, problem.head_dim, problem.itemsize, _numbers(problem))
    return aligned(elements * problem.itemsize)


def backward_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    elements = backward_elements(
        *blocks,
        problem.head_dim,
        problem.head_dim_v,
        problem.itemsize,
        _numbers(problem),
        softcap=problem.softcap is not None,
    )
    return aligned(elements * problem.itemsize)


def mask_gradient_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    """With all that any feature needs, and the tile in which gradients are added up."""
    numbers = feature_numbers(limited=True, alibi=True) + blocks.block_k
    elements = backward_elements(*blocks, problem.head_dim, problem.head_dim_v, problem.itemsize, numbers)
    return aligned(elements * problem.itemsize)


def told_bytes(problem: AttentionProblem) -> int:
    """What tells the kernels of sequences and features."""
    finite = 8 * chains_of(problem)
    return problem.batch * SEQUENCE_COLUMNS * 8 + FEATURE_BYTES + number_bytes(problem) + finite


def chains_of(problem: AttentionProblem) -> int:
    """Key/value heads: what the backward pass's tasks are chained by."""
    return problem.batch * problem.num_kv_heads


def readers_of(problem: AttentionProblem) -> float:
    """How many queries a row of k is read for, on average."""
    pairs = problem.num_heads * problem.visible_pairs
    return pairs / max(1, problem.num_kv_heads * problem.key_rows)
