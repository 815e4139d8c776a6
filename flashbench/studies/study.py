"""A study: the settings of one run, from flags or a TOML file, and the points they span."""

from __future__ import annotations

from itertools import product
from typing import Literal, NamedTuple

import msgspec

from flashbench.engines import Settings
from flashbench.errors import ConfigError
from flashbench.problem import AttentionProblem, CausalAlignment, Direction, Dtype

DOCUMENTED_SEQ_LENS = [128, 512, 1024, 2048, 4096]
BlockSize = int | Literal["auto"]


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of `profile` and `sweep`; the TOML keys of configs/*.toml are these names."""

    kind: Literal["profile", "sweep"] = "profile"
    title: str | None = None
    engines: list[str] = msgspec.field(default_factory=lambda: ["standard", "flash"])
    seq_lens: list[int] = msgspec.field(default_factory=lambda: list(DOCUMENTED_SEQ_LENS))
    batch: int = 1
    heads: list[int] = msgspec.field(default_factory=lambda: [1])
    kv_heads: int | None = None  # None: as many as heads
    head_dims: list[int] = msgspec.field(default_factory=lambda: [64])
    dtypes: list[Dtype] = msgspec.field(default_factory=lambda: ["float64"])
    causal: list[bool] = msgspec.field(default_factory=lambda: [False])
    causal_alignment: CausalAlignment = "bottom-right"
    directions: list[Direction] = msgspec.field(default_factory=lambda: ["fwd"])
    block_sizes: list[BlockSize] = msgspec.field(default_factory=lambda: ["auto"])  # block_q = block_k = it
    block_q: int | None = None  # overrides block_sizes, with block_k
    block_k: int | None = None
    threads: int | None = None  # None: every core this process may use
    repeats: int = 5  # calls in one burst
    rounds: int = 6  # fresh processes per engine, a burst each, engines taking turns
    budget_s: float | None = None  # instead of rounds: one, then more where times are least sure
    cold: bool = False  # empty the caches before every call
    seed: int = 0
    memory: bool = True  # measure peak memory too, in processes of its own
    check: bool = True  # compare with the float64 oracle too
    memory_budget_bytes: int | None = None  # None: this machine's memory
    timeout_s: float = 600.0  # for one burst, one memory measurement or one check

    def __post_init__(self) -> None:
        for name in (
            "engines",
            "seq_lens",
            "heads",
            "head_dims",
            "dtypes",
            "causal",
            "directions",
            "block_sizes",
        ):
            if not getattr(self, name):
                raise ConfigError(f"{name} must name at least one value")
        for name in ("repeats", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, not {self.seed}")
        for name in ("timeout_s", "budget_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be above 0 and finite, not {value}")
        if self.memory_budget_bytes is not None and self.memory_budget_bytes < 1:
            raise ConfigError(f"memory_budget_bytes must be at least 1, not {self.memory_budget_bytes}")
        if (self.block_q is None) != (self.block_k is None):
            raise ConfigError("block_q and block_k must be given together")
        for size in (*self.block_sizes, self.block_q, self.block_k, self.threads):
            if isinstance(size, int) and size < 1:
                raise ConfigError(f"block sizes and threads must be at least 1, not {size}")

    def settings(self) -> list[Settings]:
        """One Settings per block size."""
        if self.block_q is not None:
            return [Settings(block_q=self.block_q, block_k=self.block_k, num_threads=self.threads)]
        sizes = [None if size == "auto" else size for size in self.block_sizes]
        return [Settings(block_q=size, block_k=size, num_threads=self.threads) for size in sizes]

    def points(self) -> list[Point]:
        """Everything to measure, problem by problem, so that engines of one problem are neighbours."""
        cases = product(self.head_dims, self.heads, self.dtypes, self.directions, self.causal, self.seq_lens)
        return [
            Point(
                AttentionProblem.of(
                    seqlen,
                    batch=self.batch,
                    num_heads=heads,
                    num_kv_heads=self.kv_heads,
                    head_dim=head_dim,
                    dtype=dtype,
                    causal=causal,
                    causal_alignment=self.causal_alignment,
                ),
                engine,
                direction,
                settings,
            )
            for head_dim, heads, dtype, direction, causal, seqlen in cases
            for engine in self.engines
            for settings in self.settings()
        ]


class Point(NamedTuple):
    """One engine on one problem in one direction with one block size."""

    problem: AttentionProblem
    engine: str
    direction: Direction
    settings: Settings
