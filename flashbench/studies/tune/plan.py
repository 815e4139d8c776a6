"""The keys of a tuning run, and the problems that represent each key."""

from __future__ import annotations

from itertools import product

import msgspec

from flashbench.dtypes import ACCUMULATORS, Dtype
from flashbench.engines.flash.block_sizes import Pass
from flashbench.engines.flash.tuned import Key, band_of
from flashbench.errors import ConfigError
from flashbench.problem import AttentionProblem

# "Many heads" means at least so many: each thread then has several, and no thread waits for another.
LEAST_MANY_HEADS = 8
# Many heads are only timed if a call has at most this many operations per thread. Longer sequences keep every
# thread busy with one head.
MANY_HEADS_FLOPS_PER_THREAD = 1_500_000_000
# Query rows per thread in the search: a whole number of tiles of every candidate's width.
SEARCH_ROWS_PER_THREAD = 384


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run. Its keys are their product. Raises ConfigError if one breaks a rule."""

    dtypes: list[Dtype] = msgspec.field(default_factory=lambda: list(ACCUMULATORS))
    head_dims: list[int] = msgspec.field(default_factory=lambda: [64])
    causal: list[bool] = msgspec.field(default_factory=lambda: [False, True])
    directions: list[Pass] = msgspec.field(default_factory=lambda: ["fwd", "bwd"])
    seq_lens: list[int] = msgspec.field(default_factory=lambda: [256, 512, 1024, 2048, 4096])
    threads: int
    cpus: list[int] | None = None  # pins the workers to these

    def __post_init__(self) -> None:
        for name in ("dtypes", "head_dims", "causal", "directions", "seq_lens"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must name at least one value")
        for value in (*self.seq_lens, self.threads):
            if value < 1:
                raise ConfigError(f"lengths and threads must be at least 1, not {value}")
        for key in self.keys():
            problem_of(key, seqlen_from(key), heads=1)  # raises AttentionError for an invalid key

    def keys(self) -> list[Key]:
        """One key per combination and band. Lengths in the same band share a key."""
        bands = dict.fromkeys(band_of(seqlen) for seqlen in self.seq_lens)
        cases = product(self.dtypes, self.head_dims, self.directions, self.causal, bands)
        return list(
            dict.fromkeys(
                Key(dtype, head_dim, causal, direction, band)
                for dtype, head_dim, direction, causal, band in cases
            )
        )


def seqlen_from(key: Key) -> int:
    """The shortest length of the key's band; the longest is one less than twice that."""
    return 1 << (key.band - 1)


def longest_of(key: Key) -> int:
    """The longest length of the key's band."""
    return 2 * seqlen_from(key) - 1


def problem_of(key: Key, seqlen: int, *, heads: int, seqlen_q: int | None = None) -> AttentionProblem:
    """A problem with the key's dtype, head_dim and masking."""
    return AttentionProblem.of(
        seqlen_q or seqlen,
        seqlen_k=seqlen,
        num_heads=heads,
        head_dim=key.head_dim,
        dtype=key.dtype,
        causal=key.causal,
    )


def search_problem(key: Key, threads: int) -> AttentionProblem:
    """A problem with a seqlen_k from the middle of the band, and only as many queries as keep threads busy.

    Every tile of queries passes over all keys, so more queries would show nothing new.
    """
    seqlen = max(1, seqlen_from(key) * 3 // 2)
    rows = SEARCH_ROWS_PER_THREAD * threads
    return problem_of(key, seqlen, heads=-(-rows // seqlen), seqlen_q=min(seqlen, rows))


def head_counts(key: Key, threads: int) -> list[int]:
    """Numbers of heads to judge: 1, which has few tiles, and many, if a call is then short enough."""
    many = max(LEAST_MANY_HEADS, 2 * threads)
    flops = problem_of(key, longest_of(key), heads=many).flops(key.direction)
    return [1, many] if flops <= MANY_HEADS_FLOPS_PER_THREAD * threads else [1]


def judged_lengths(key: Key, block_q: int, *, heads: int, threads: int) -> list[int]:
    """Both ends of the band, and the length at which tiles of `block_q` rows leave threads idle longest.

    >>> judged_lengths(Key("float64", 64, False, "fwd", 9), 32, heads=1, threads=2)
    [256, 288, 511]
    >>> judged_lengths(Key("float64", 64, False, "fwd", 9), 32, heads=8, threads=2)
    [256, 511]
    """
    first, last = seqlen_from(key), longest_of(key)
    whole = range(-(-first // block_q) * block_q, last + 1, block_q)
    worst = max(whole, key=lambda seqlen: _idle_share(heads * seqlen // block_q, threads), default=first)
    awkward = [worst] if _idle_share(heads * worst // block_q, threads) > 0 else []
    return sorted({first, *awkward, last})


def _idle_share(tiles: int, threads: int) -> float:
    """Share of the threads' time that is idle, if all tiles take the same time."""
    turns = -(-tiles // threads)
    return 1 - tiles / (turns * threads) if turns else 0.0
