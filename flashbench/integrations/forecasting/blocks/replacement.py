"""What the replaced blocks have in common: one function that serves an instance and a whole class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from flashbench.integrations.forecasting.choice import Choice


class Replacement:
    """Base of a subclass of `original` without parameters of its own: `module.__class__ = ...` makes one."""

    original: ClassVar[type[Any]]
    original_forward: ClassVar[Callable[..., Any]]  # as it was before anybody put another in its place
    instead_of: ClassVar[str | None] = None  # what the original has where it is not softmax attention
    # Of (module, choice, ...): what `original.forward` returns for a module, with the attention chosen.
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
    """Attention of (batch, length, heads, head_dim), as most of neuralforecast's blocks take and give it."""
    heads = (x.transpose(1, 2) for x in (q, k, v))
    return choice(*heads, **options).transpose(1, 2).contiguous()
