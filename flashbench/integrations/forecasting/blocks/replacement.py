"""The base of all replacements: one function computes for an instance and for a whole class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from flashbench.integrations.forecasting.choice import Choice


class Replacement:
    """Base of subclasses of `original`. They add no parameters, so `module.__class__ = ...` makes one."""

    original: ClassVar[type[Any]]
    original_forward: ClassVar[Callable[..., Any]]  # neuralforecast's own, also after a replacement
    instead_of: ClassVar[str | None] = None  # what the original has instead of softmax attention
    # compute(module, choice, ...) returns what `original.forward` would, computed by the chosen attention.
    compute: ClassVar[Callable[..., Any]]
    choice: Choice

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return type(self).compute(self, self.choice, *arguments, **named)

    @classmethod
    def forward_with(cls, choice: Choice) -> Callable[..., Any]:
        """A forward for the original class itself."""

        def forward(module: Any, *arguments: Any, **named: Any) -> Any:
            return cls.compute(module, choice, *arguments, **named)

        return forward


def attend_by_rows(choice: Choice, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Attention of (batch, length, heads, head_dim), the shape of most of neuralforecast's blocks."""
    heads = (x.transpose(1, 2) for x in (q, k, v))
    return choice(*heads, **options).transpose(1, 2).contiguous()
