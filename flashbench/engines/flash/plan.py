"""The plan of a call of engine `flash`: block sizes, tiles, threads, and the bytes of its workspace."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.elements import lanes_of
from flashbench.codegen.scratch import ALIGNMENT, ScratchLayout
from flashbench.codegen.structs import struct_bytes
from flashbench.dtypes import accumulator_of, is_half
from flashbench.engines import Settings
from flashbench.engines.features import limited
from flashbench.engines.flash.block_sizes import (
    Blocks,
    Pass,
    backward_blocks,
    forward_blocks,
    half_blocks,
    within_window,
)
from flashbench.engines.flash.tuned import tuned_blocks
from flashbench.engines.launch import (
    Counters,
    Tasks,
    operand_blocks,
    sequence_table,
    sizes_of,
    threads_for,
)
from flashbench.kernels.call.structs import Gathers, Move, Sequence, Sizes
from flashbench.kernels.flash.backward import BackwardCall
from flashbench.kernels.flash.forward import ForwardCall
from flashbench.kernels.flash.gather import K_ROWS, TICKETS, V_ROWS, VALUES
from flashbench.kernels.flash.scratch import BACKWARD, FORWARD, MASK_GRADIENT, WHOLE, ScratchSizes, padded
from flashbench.kernels.products.paths import Path, path_of
from flashbench.problem import AttentionProblem

OTHERWISE = "fma"  # the path that computes what `amx_split` refuses


def path_for(problem: AttentionProblem, direction: Pass, wanted: str | None) -> Path:
    """The path of a call: the wanted one, or the best for the problem."""
    return path_of(problem.dtype, wanted, readers_of(problem), backward=direction == "bwd")


@functools.lru_cache(maxsize=1024)  # used by every call
def built_in_blocks(problem: AttentionProblem, direction: Pass, path: str | None = None) -> Blocks:
    """The block sizes by rule, used if the tuned table has no entry."""
    seqlen_q, seqlen_k, window = problem.seqlen_q, problem.seqlen_k, _window(problem)
    product = path_for(problem, direction, path).product
    if is_half(problem.dtype) or product.exact:
        exact, parts = product.exact, product.parts
        return half_blocks(direction, seqlen_q, seqlen_k, window, exact=exact, parts=parts)
    if direction == "fwd":
        heads, flops = problem.batch * problem.num_heads, problem.flops("fwd")
        return forward_blocks(
            seqlen_q, seqlen_k, problem.head_dim, problem.itemsize, flops, window, heads=heads
        )
    return backward_blocks(seqlen_q, seqlen_k, problem.head_dim, problem.itemsize, window)


def _window(problem: AttentionProblem) -> int | None:
    """The most keys that a query attends to; None: only the sequence limits it."""
    left, right = problem.window
    return None if left is None or right is None else left + right + 1


def plan_of(problem: AttentionProblem, direction: Pass, settings: Settings) -> tuple[int, Blocks]:
    """(threads, block sizes) of a call."""
    threads = threads_for(problem, direction, settings)
    blocks = _chosen(problem, direction, settings)
    return min(threads, max(1, problem.num_heads * all_tiles(problem, blocks))), blocks


def _chosen(problem: AttentionProblem, direction: Pass, settings: Settings) -> Blocks:
    """The caller's block sizes if set, else the tuned pair, else the rule's; at most the sequence length.

    If the caller sets only one size, the other is the rule's: a tuned size is only good with its partner.
    """
    auto = None
    if settings.block_q is None and settings.block_k is None:
        auto = tuned_blocks(problem, direction, path_for(problem, direction, settings.path).product.name)
        if auto is not None:
            auto = within_window(auto, problem.seqlen_k, _window(problem))
    auto = auto or built_in_blocks(problem, direction, settings.path)
    block_q = min(settings.block_q or auto.block_q, problem.seqlen_q)
    block_k = min(settings.block_k or auto.block_k, problem.seqlen_k)
    if problem.mask == "block":  # a tile lies inside one block of the mask
        return Blocks(min(block_q, problem.mask_block_q), min(block_k, problem.mask_block_k))
    return Blocks(block_q, block_k)


def tiles_of(problem: AttentionProblem, blocks: Blocks) -> Tasks:
    """tiles(seqlen_q, seqlen_k): tiles of queries per head of a sequence, as the kernels count them."""
    if problem.mask == "block":
        per_block = -(-problem.mask_block_q // blocks.block_q)
        return lambda seqlen_q, seqlen_k: -(-seqlen_q // problem.mask_block_q) * per_block
    return lambda seqlen_q, seqlen_k: -(-seqlen_q // blocks.block_q)


def all_tiles(problem: AttentionProblem, blocks: Blocks) -> int:
    """Tiles of queries per head, over all sequences."""
    tiles = tiles_of(problem, blocks)
    return sum(count * int(tiles(*lengths)) for lengths, count in problem.length_counts.items())


_NO_GATHERS = Gathers()


class Tiling(NamedTuple):
    """The parts of a call's struct that depend on the problem and its block sizes only."""

    sizes: Sizes
    scratch: Any  # offsets of the layout's parts
    stride: int  # bytes from one thread's scratch to the next
    counters: Counters
    tasks: int
    sequences: NDArray[np.int64]


def tiling_of(
    problem: AttentionProblem,
    layout: ScratchLayout,
    blocks: Blocks,
    path: Path,
    gathers: Gathers = _NO_GATHERS,
) -> Tiling:
    """The tiling of a call whose threads' scratch has this layout."""
    cells, stride = scratch_of(layout, problem, blocks, path, gathers)
    tasks = problem.num_heads * all_tiles(problem, blocks)
    sequences = sequence_table(problem, tiles_of(problem, blocks))
    counters = counters_of(layout, problem, blocks)
    return Tiling(sizes_of(problem, *blocks), cells, stride, counters, tasks, sequences)


def scratch_of(
    layout: ScratchLayout,
    problem: AttentionProblem,
    blocks: Blocks,
    path: Path,
    gathers: Gathers = _NO_GATHERS,
) -> tuple[Any, int]:
    """(offsets of the layout's parts, bytes from one thread's scratch to the next)."""
    number_bytes = accumulator_of(problem.dtype).itemsize
    sizes = ScratchSizes(
        padded(blocks.block_q, lanes_of(problem.dtype)),
        *blocks,
        problem.head_dim,
        problem.head_dim_v,
        problem.itemsize,
        number_bytes,
        int(path.copies),
        path.product.parts if path.product.exact else 0,
        limited(problem),
        problem.alibi,
        problem.softcap is not None,
        *gathers,
    )
    return layout.place(sizes)


def counters_of(layout: ScratchLayout, problem: AttentionProblem, blocks: Blocks) -> Counters:
    """The numbers of shared counters of a call."""
    chains = chains_of(problem)
    if layout is MASK_GRADIENT:
        return Counters(tickets=1)
    if layout is FORWARD:
        return Counters(tickets=TICKETS + 1, finite=chains)
    tasks = problem.num_heads * all_tiles(problem, blocks)
    return Counters(tickets=TICKETS + 1 + chains, finite=chains, progress=tasks)


def call_bytes(problem: AttentionProblem, direction: Pass, settings: Settings) -> int:
    """Workspace of a call in bytes; exact if no array is copied or gathered."""
    threads, blocks = plan_of(problem, direction, settings)
    layout, call = (FORWARD, ForwardCall) if direction == "fwd" else (BACKWARD, BackwardCall)
    path = path_for(problem, direction, settings.path)
    gathers = Gathers(sums=1) if path.copies else _NO_GATHERS
    _, stride = scratch_of(layout, problem, blocks, path, gathers)
    shared = struct_bytes(call) + problem.batch * struct_bytes(Sequence)
    if direction == "bwd" and is_half(problem.dtype):  # dk and dv grow in float32
        numbers = problem.num_kv_heads * problem.key_rows * (problem.head_dim + problem.head_dim_v)
        shared += numbers * accumulator_of(problem.dtype).itemsize
    if shares_operands(problem, path, blocks):
        entries, head = operand_blocks(problem)
        keys = entries * problem.num_kv_heads * head * WHOLE
        for kind in kinds_of_operands(path, direction):
            columns = padded(problem.head_dim_v if reads_v(kind, direction) else problem.head_dim, WHOLE)
            shared += keys * columns * path.product.parts * 2 + ALIGNMENT + struct_bytes(Move)
    return threads * stride + ALIGNMENT + shared + counters_of(layout, problem, blocks).bytes


def shares_operands(problem: AttentionProblem, path: Path, blocks: Blocks) -> bool:
    """Whether the keys are laid out once for the product: if more than one tile of queries reads them."""
    return path.product.exact and readers_of(problem) > blocks.block_q


def kinds_of_operands(path: Path, direction: Pass) -> tuple[int, ...]:
    """The kinds of operands (kernels/flash/gather.py) that are laid out once.

    Rows of keys only where a number takes more than its own bytes twice: three parts of bfloat16.
    """
    if path.product.parts < 3:
        return (VALUES,)
    return (K_ROWS, VALUES) if direction == "fwd" else (K_ROWS, V_ROWS, VALUES)


def reads_v(kind: int, direction: Pass) -> bool:
    """Whether an operand is made of v, not of k. VALUES are v transposed, or in the backward pass k."""
    return kind == V_ROWS or (kind == VALUES and direction == "fwd")


def chains_of(problem: AttentionProblem) -> int:
    """Chains of the backward pass: one per key/value head of each sequence."""
    return problem.batch * problem.num_kv_heads


def readers_of(problem: AttentionProblem) -> float:
    """How many queries read a row of k, on average."""
    pairs = problem.num_heads * problem.visible_pairs
    return pairs / max(1, problem.num_kv_heads * problem.key_rows)
