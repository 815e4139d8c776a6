"""The settings of a training study, and the points that they span."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from flashbench.errors import ConfigError

DATA = Literal["sf-temps", "airpassengers", "synthetic"]
TrainDtype = Literal["float32", "bfloat16"]
ATTENTIONS = ("flash", "standard", "torch-flash", "torch-math", "original")
Setting = int | float | bool | str | list[Any]


class TrainPoint(NamedTuple):
    """One model at one context length with one attention."""

    model: str
    context_length: int
    attention: str


class TrainStudy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of `train`; the TOML keys of configs/training.toml are these names."""

    kind: Literal["train"] = "train"
    title: str | None = None
    models: list[str] = msgspec.field(
        default_factory=lambda: ["patchtst", "itransformer", "tft", "informer", "autoformer", "fedformer"]
    )
    attentions: list[str] = msgspec.field(
        default_factory=lambda: ["standard", "flash", "torch-flash", "torch-math"]
    )
    variant: Literal["full-attention"] | None = None
    context_lengths: list[int] = msgspec.field(default_factory=lambda: [512, 1024, 2048])
    horizon: int = 24
    windows: int = 4  # windows per step: the batch
    data: DATA = "sf-temps"
    csv: str | None = None  # a file in place of `data`
    series: int = 1024  # number of synthetic series; they are the tokens of iTransformer
    patch_stride: int = 1  # PatchTST has one token per this many values
    # Arguments of the models' classes, by model: {"patchtst": {"hidden_size": 64}}.
    settings: dict[str, dict[str, Setting]] = {}
    # The dtype of torch.autocast in forward and loss. Weights, gradients and optimizer stay float32.
    autocast: Literal["bfloat16"] | None = None
    threads: int | None = None  # None: every core this process may use
    cpus: list[int] | None = None  # pins the workers to these; None: every CPU this process may use
    repeats: int = 3  # steps in one burst
    rounds: int = 2  # fresh processes of each arm; the arms take turns
    seed: int = 0
    memory: bool = True  # measure peak memory too, in separate processes
    memory_budget_bytes: int | None = None  # None: this machine's memory
    timeout_s: float = 600.0  # for one burst or one memory measurement

    def __post_init__(self) -> None:
        for name in ("models", "attentions", "context_lengths"):
            values = getattr(self, name)
            if not values:
                raise ConfigError(f"{name} must name at least one value")
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} must name each value once, not {', '.join(map(str, values))}")
        for attention in self.attentions:
            if attention not in ATTENTIONS:
                raise ConfigError(f"unknown attention {attention!r}; known: {', '.join(ATTENTIONS)}")
        if self.data not in get_args(DATA):
            raise ConfigError(f"unknown data {self.data!r}; known: {', '.join(get_args(DATA))}")
        for name in ("horizon", "windows", "series", "patch_stride", "repeats", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self.context_lengths) < 16:
            raise ConfigError(f"context_lengths must be at least 16, not {min(self.context_lengths)}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, not {self.seed}")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"timeout_s must be above 0 and finite, not {self.timeout_s}")
        if self.memory_budget_bytes is not None and self.memory_budget_bytes < 1:
            raise ConfigError(f"memory_budget_bytes must be at least 1, not {self.memory_budget_bytes}")

    @property
    def dtype(self) -> TrainDtype:
        """The dtype of products and attention."""
        return self.autocast or "float32"

    def points(self) -> list[TrainPoint]:
        """All points. The arms of one model and context length are neighbours."""
        spanned = product(self.models, sorted(self.context_lengths), self.attentions)
        return [TrainPoint(*point) for point in spanned]
