"""The block sizes to try: whole vectors of queries, and no more memory than promised."""

from __future__ import annotations

from collections.abc import Iterator

from flashbench.codegen.isa import ISA
from flashbench.dtypes import accumulator_of
from flashbench.engines import Settings
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.engine import FlashEngine
from flashbench.engines.flash.plan import built_in_blocks
from flashbench.engines.flash.tuned import Key
from flashbench.problem import AttentionProblem
from flashbench.studies.tune.plan import LEAST_MANY_HEADS, longest_of, problem_of, search_problem, seqlen_from

BLOCK_Q = (8, 16, 24, 32, 48, 64, 96, 128)
BLOCK_K = (32, 64, 96, 128, 192, 256, 384, 512, 1024)
KEY_STEP = 8
# The documented "Flash Mem" per head: 8 KB at 128 tokens to 256 KB at 4096, eight times that at batch 8.
DOCUMENTED_BYTES_PER_KEY = 64
_ENGINE = FlashEngine()


def candidates(key: Key, threads: int) -> list[Blocks]:
    """The built-in choice first, then every size that keeps to `allowed_bytes` in the whole band."""
    vector = ISA.lanes(accumulator_of(key.dtype).itemsize)
    limits = list(_limits(key, threads))
    found = [built_in_blocks(search_problem(key, threads), key.direction)]
    for block_q in BLOCK_Q:
        if block_q % vector == 0 and block_q <= seqlen_from(key):
            found += [Blocks(block_q, block_k) for block_k in _key_sizes(key, block_q, limits, threads)]
    return list(dict.fromkeys(found))


def allowed_bytes(problem: AttentionProblem, key: Key, threads: int) -> int:
    """The most bytes for a tuned choice: those of the built-in choice, or the documented ones if larger."""
    built_in = _workspace(problem, key, built_in_blocks(problem, key.direction), threads)
    documented = DOCUMENTED_BYTES_PER_KEY * problem.seqlen_k * problem.batch * problem.num_heads
    return max(built_in, documented)


def _limits(key: Key, threads: int) -> Iterator[tuple[AttentionProblem, int]]:
    """(problem, allowed bytes) at lengths across the band: the built-in rule's sizes change in steps."""
    first, last = seqlen_from(key), longest_of(key)
    lengths = {first, last, *range(first + 1, last, max(1, first // 16))}
    for heads in (1, LEAST_MANY_HEADS):
        for seqlen in sorted(lengths):
            problem = problem_of(key, seqlen, heads=heads)
            yield problem, allowed_bytes(problem, key, threads)


def _key_sizes(key: Key, block_q: int, limits: list[tuple[AttentionProblem, int]], threads: int) -> list[int]:
    """The sizes of BLOCK_K below the largest block_k that keeps the limits, and that largest one."""

    def fits(block_k: int) -> bool:
        blocks = Blocks(block_q, block_k)
        return all(_workspace(problem, key, blocks, threads) <= limit for problem, limit in limits)

    most = min(max(BLOCK_K), seqlen_from(key)) // KEY_STEP * KEY_STEP
    while most and not fits(most):
        most -= KEY_STEP
    return [size for size in BLOCK_K if size < most] + [most] if most else []


def _workspace(problem: AttentionProblem, key: Key, blocks: Blocks, threads: int) -> int:
    settings = Settings(blocks.block_q, blocks.block_k, num_threads=threads)
    needed = _ENGINE.workspace_bytes(problem, key.direction, settings)
    assert needed is not None  # flash always knows it
    return needed
