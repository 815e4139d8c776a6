"""A study: the settings of one run, from options or a TOML file, and the points that they span."""

from __future__ import annotations

from itertools import product
from typing import Literal, NamedTuple

import msgspec

from flashbench.dtypes import DEFAULT_DTYPE, Dtype
from flashbench.engines import Settings
from flashbench.errors import ConfigError
from flashbench.features import OPTIONS
from flashbench.problem import MOST_DECODING_QUERIES, AttentionProblem, CausalAlignment, Direction, MaskKind
from flashbench.studies.lengths import Length, are_shares, check_lengths, rows_of_lengths
from flashbench.studies.windows import NO_WINDOW, WindowSetting, window_of

DOCUMENTED_SEQ_LENS = [128, 512, 1024, 2048, 4096]
DEFAULT_MASK_AXES = "qk"
DEFAULT_MASK_BLOCK = 64
# Keys with lists: a study measures every combination of their values.
SPANNED = (
    "engines",
    "seq_lens",
    "heads",
    "head_dims",
    "dtypes",
    "causal",
    "windows",
    "directions",
    "block_sizes",
    "paths",
)
AUTO_PATH = "auto"
BlockSize = int | Literal["auto"]


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of `profile` and `sweep`; the TOML keys of configs/*.toml are these names."""

    kind: Literal["profile", "sweep"] = "profile"
    title: str | None = None
    engines: list[str] = msgspec.field(default_factory=lambda: ["standard", "flash"])
    seq_lens: list[int] = msgspec.field(default_factory=lambda: list(DOCUMENTED_SEQ_LENS))
    batch: int = 1  # several key_lengths or varlen set it to their number
    seq_len_k: int | None = None  # keys; None: as many as queries
    decode: bool = False  # seq_lens are the keys that a step's queries read
    queries: int = 1  # of a step
    heads: list[int] = msgspec.field(default_factory=lambda: [1])
    kv_heads: int | None = None  # None: as many as heads
    head_dims: list[int] = msgspec.field(default_factory=lambda: [64])
    dtypes: list[Dtype] = msgspec.field(default_factory=lambda: [DEFAULT_DTYPE])
    causal: list[bool] = msgspec.field(default_factory=lambda: [False])
    causal_alignment: CausalAlignment = "bottom-right"
    windows: list[WindowSetting] = msgspec.field(default_factory=lambda: [NO_WINDOW])
    softcap: float | None = None
    alibi: bool = False
    sinks: bool = False
    mask: MaskKind | None = None
    mask_axes: str = DEFAULT_MASK_AXES
    mask_block: int = DEFAULT_MASK_BLOCK  # queries and keys of a block of a block mask
    dropout: float = 0.0
    dropout_seed: int = 0
    key_lengths: list[Length] | None = None  # of each sequence; one is for all of them
    varlen: list[Length] | None = None  # sequences of these lengths, packed end to end
    page_size: int | None = None  # of a paged cache of k and v
    directions: list[Direction] = msgspec.field(default_factory=lambda: ["fwd"])
    block_sizes: list[BlockSize] = msgspec.field(default_factory=lambda: ["auto"])  # block_q = block_k = it
    block_q: int | None = None  # with block_k; both win over block_sizes
    block_k: int | None = None
    paths: list[str] = msgspec.field(default_factory=lambda: [AUTO_PATH])  # of kernels/products/paths.py
    threads: int | list[int] | None = None  # None: every core this process may use; a list: a scaling curve
    cpus: list[int] | None = None  # pins the workers to these; None: every CPU this process may use
    repeats: int = 5  # calls in one burst
    rounds: int = 6  # fresh processes per engine, a burst each, engines taking turns
    budget_s: float | None = None  # instead of rounds: one round, then more of the least certain points
    cold: bool = False  # empty the caches before every call
    seed: int = 0
    memory: bool = True  # measure peak memory too, in processes of its own
    check: bool = True  # compare with the float64 oracle too
    memory_budget_bytes: int | None = None  # None: this machine's memory
    timeout_s: float = 600.0  # for one burst, one memory measurement or one check

    def __post_init__(self) -> None:
        for name in SPANNED:
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
        for size in (*self.block_sizes, self.block_q, self.block_k, *self.thread_counts):
            if isinstance(size, int) and size < 1:
                raise ConfigError(f"block sizes and threads must be at least 1, not {size}")
        self._check_threads()
        self._check_features()
        self._check_lengths()
        if self.decode:
            self._check_decode()
        elif self.queries != 1:
            raise ConfigError("queries are those of a step of decoding: they need decode")

    @property
    def thread_counts(self) -> list[int] | list[None]:
        """Every number of threads; [None] if the study names none."""
        if isinstance(self.threads, list):
            return self.threads
        return [None] if self.threads is None else [self.threads]

    def _check_threads(self) -> None:
        counts = self.thread_counts
        words = ", ".join(map(str, counts))
        if not counts:
            raise ConfigError("threads must name at least one number")
        if len(set(counts)) < len(counts):
            raise ConfigError(f"threads must name each number once, not {words}")
        if self.kind == "sweep" and len(counts) > 1:
            raise ConfigError(
                f"a sweep is of one number of threads, not of {words}",
                hint="flashbench profile --threads measures several",
            )

    def _check_features(self) -> None:
        if self.mask is None and self.mask_axes != DEFAULT_MASK_AXES:
            raise ConfigError("mask_axes say along what a mask varies: they need mask")
        if self.mask != "block" and self.mask_block != DEFAULT_MASK_BLOCK:
            raise ConfigError("mask_block is the size of a block mask's blocks: it needs mask block")
        if not self.dropout and self.dropout_seed:
            raise ConfigError("dropout_seed chooses what dropout drops: it needs dropout")

    def _check_lengths(self) -> None:
        for name in ("key_lengths", "varlen"):
            lengths: list[Length] | None = getattr(self, name)
            if lengths is None:
                continue
            check_lengths(name, lengths)
            # In the study itself, so that results record it.
            if self.batch == 1 and len(lengths) > 1:
                msgspec.structs.force_setattr(self, "batch", len(lengths))
            if len(lengths) not in (1, self.batch):
                raise ConfigError(
                    f"{name} must name 1 or batch ({self.batch}) lengths, not {len(lengths)}",
                    hint=f"batch {len(lengths)} has as many",
                )
        if self.varlen is not None and not are_shares(self.varlen):
            longest = max(self.varlen)
            if self.seq_lens != [longest]:
                listed = ", ".join(map(str, self.seq_lens))
                raise ConfigError(
                    f"varlen names rows, so seq_lens must be the longest ({longest}), not {listed}",
                    hint="shares such as 0.25,0.5,1 fit every length",
                )

    def _check_decode(self) -> None:
        if not 1 <= self.queries <= MOST_DECODING_QUERIES:
            raise ConfigError(
                f"queries of a step must be from 1 to {MOST_DECODING_QUERIES}, not {self.queries}"
            )
        for name in ("seq_len_k", "varlen"):
            if getattr(self, name) is not None:
                raise ConfigError(f"decode reads as many keys as seq_lens says: it takes no {name}")
        if self.directions != ["fwd"]:
            raise ConfigError(f"decode is forward alone, not {', '.join(self.directions)}")
        if self.causal_alignment != "bottom-right":
            raise ConfigError("decode is of the last queries: causal_alignment must be bottom-right")

    def settings(self, dtype: Dtype | None = None) -> list[Settings]:
        """One Settings per block size, path and number of threads. dtype: only with paths that compute it.

        Raises ConfigError if there is no path of some name, or none of them computes the dtype.
        """
        blocks: list[tuple[int | None, int | None]] = [(self.block_q, self.block_k)]
        if self.block_q is None:
            blocks = [(None, None) if size == "auto" else (size, size) for size in self.block_sizes]
        return [
            Settings(block_q=block_q, block_k=block_k, num_threads=threads, path=path)
            for block_q, block_k in blocks
            for path in self._paths(dtype)
            for threads in self.thread_counts
        ]

    def _paths(self, dtype: Dtype | None) -> list[str | None]:
        if self.paths == [AUTO_PATH]:
            return [None]
        from flashbench.kernels.products.paths import computes  # here: loads Numba

        found: list[str | None] = [
            None if name == AUTO_PATH else name
            for name in self.paths
            if name == AUTO_PATH or dtype is None or computes(name, dtype)
        ]
        if not found:
            raise ConfigError(f"no path of {', '.join(self.paths)} computes {dtype}")
        return found

    def points(self) -> list[Point]:
        """All points, problem by problem, so that the engines of a problem are neighbours."""
        cases = product(
            self.head_dims,
            self.heads,
            self.dtypes,
            self.directions,
            self.causal,
            self.seq_lens,
            self.windows,
        )
        return [
            Point(self._problem(seqlen, heads, head_dim, dtype, causal, window), engine, direction, settings)
            for head_dim, heads, dtype, direction, causal, seqlen, window in cases
            for engine in self.engines
            for settings in self.settings(dtype)
        ]

    def _problem(
        self, seqlen: int, heads: int, head_dim: int, dtype: Dtype, causal: bool, window: WindowSetting
    ) -> AttentionProblem:
        seqlen_q = self.queries if self.decode else seqlen
        seqlen_k = self.seq_len_k or seqlen
        query_lengths = key_lengths = None
        if self.varlen is not None:
            query_lengths = rows_of_lengths(self.varlen, seqlen_q, self.batch)
        lengths = self.key_lengths or self.varlen
        if lengths is not None:
            key_lengths = rows_of_lengths(lengths, seqlen_k, self.batch)
        return AttentionProblem.of(
            seqlen_q,
            seqlen_k=seqlen_k,
            batch=self.batch,
            num_heads=heads,
            num_kv_heads=self.kv_heads,
            head_dim=head_dim,
            dtype=dtype,
            causal=causal,
            causal_alignment=self.causal_alignment,
            window=window_of(window, causal=causal),
            key_lengths=key_lengths,
            query_lengths=query_lengths,
            **{field: getattr(self, option.key) for option in OPTIONS.values() for field in option.fields},
        )


class Point(NamedTuple):
    """One engine on one problem in one direction with one block size."""

    problem: AttentionProblem
    engine: str
    direction: Direction
    settings: Settings
