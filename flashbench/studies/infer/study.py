"""The settings of a study of inference, and the points that they span."""

from __future__ import annotations

from itertools import product
from typing import Literal, NamedTuple, get_args

import msgspec

from flashbench.errors import ConfigError

ATTENTIONS = ("sdpa", "eager", "flash")
InferDtype = Literal["float32", "bfloat16", "float16"]
Test = Literal["prefill", "decode"]


class InferPoint(NamedTuple):
    """One test of one model with one attention: so many tokens, after `depth` tokens in the cache."""

    model: str
    dtype: InferDtype
    test: Test
    tokens: int
    depth: int
    attention: str

    @property
    def place(self) -> tuple[str, InferDtype, Test, int, int]:
        """What the arms have in common."""
        return self[:5]


class InferStudy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of `infer`; the TOML keys are these names."""

    kind: Literal["infer"] = "infer"
    title: str | None = None
    models: list[str] = msgspec.field(default_factory=lambda: ["llama-160m"])  # built in, or folders
    attentions: list[str] = msgspec.field(default_factory=lambda: list(ATTENTIONS))
    dtypes: list[InferDtype] = msgspec.field(default_factory=lambda: ["float32"])
    prompt: list[int] = msgspec.field(default_factory=lambda: [512])  # tokens of a prefill; empty: none
    generate: list[int] = msgspec.field(default_factory=lambda: [32])  # tokens that are decoded
    depths: list[int] = msgspec.field(default_factory=lambda: [0])
    batch: int = 1
    threads: int | None = None  # None: every core this process may use
    cpus: list[int] | None = None  # pins the workers to these; None: every CPU this process may use
    repeats: int = 3  # tests in one burst
    rounds: int = 2  # fresh processes of each arm; the arms take turns
    seed: int = 0
    memory: bool = True  # measure peak memory too, in separate processes
    memory_budget_bytes: int | None = None  # None: this machine's memory
    timeout_s: float = 600.0  # for one burst or one memory measurement

    def __post_init__(self) -> None:
        for name in ("models", "attentions", "dtypes", "depths"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must name at least one value")
        for name in ("models", "attentions", "dtypes", "prompt", "generate", "depths"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} must name each value once, not {', '.join(map(str, values))}")
        if not self.prompt and not self.generate:
            raise ConfigError("prompt and generate are both empty, so nothing is to be measured")
        for attention in self.attentions:
            if attention not in ATTENTIONS:
                raise ConfigError(f"unknown attention {attention!r}; known: {', '.join(ATTENTIONS)}")
        for dtype in self.dtypes:
            if dtype not in get_args(InferDtype):
                raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(get_args(InferDtype))}")
        for name in ("prompt", "generate"):
            if min(getattr(self, name), default=1) < 1:
                raise ConfigError(f"{name} must be at least 1, not {min(getattr(self, name))}")
        if min(self.depths) < 0:
            raise ConfigError(f"depths must be at least 0, not {min(self.depths)}")
        for name in ("batch", "repeats", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, not {self.seed}")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"timeout_s must be above 0 and finite, not {self.timeout_s}")
        if self.memory_budget_bytes is not None and self.memory_budget_bytes < 1:
            raise ConfigError(f"memory_budget_bytes must be at least 1, not {self.memory_budget_bytes}")

    def points(self) -> list[InferPoint]:
        """All points. The arms of one test are neighbours."""
        tests: list[tuple[Test, int]] = [("prefill", tokens) for tokens in self.prompt]
        tests += [("decode", tokens) for tokens in self.generate]
        spanned = product(self.models, self.dtypes, tests, sorted(self.depths), self.attentions)
        return [
            InferPoint(model, dtype, test, tokens, depth, attention)
            for model, dtype, (test, tokens), depth, attention in spanned
        ]
