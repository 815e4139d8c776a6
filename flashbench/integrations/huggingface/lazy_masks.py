"""Masks that are numbers only to those who look.

Transformers makes one mask for all layers, in its eager form of (batch, 1, queries, keys) numbers. The
kernels need no more than its pattern, so a mask that is known to be a band and padding stays unwritten: at
8192 tokens that is 256 MB less a sequence. A model that adds it to scores of its own gets the numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map
from transformers.masking_utils import causal_mask_function, eager_mask

from flashbench.integrations.huggingface.mask_functions import MaskFunction, limits_of
from flashbench.integrations.huggingface.patterns import Pattern, band_pattern, in_band


class LazyMask(Tensor):
    """0 where query i sees key j, else the lowest number.

    It does where seen[batch, j] and low <= j - i <= high.
    """

    seen: Tensor
    rule: tuple[int, int | None, int | None, torch.dtype]  # queries, low, high
    written: Tensor | None
    shared: bool  # someone may write to what is written

    # Operators come to __torch_dispatch__ alone, and their results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(
        cls: type[LazyMask], seen: Tensor, queries: int, low: int | None, high: int | None, dtype: torch.dtype
    ) -> LazyMask:
        batch, keys = seen.shape
        made: LazyMask = Tensor._make_wrapper_subclass(
            cls, (batch, 1, queries, keys), dtype=dtype, device=seen.device
        )
        made.seen, made.rule = seen, (queries, low, high, dtype)
        made.written, made.shared = None, False
        return made

    def whole(self) -> Tensor:
        """All of its numbers, as a plain tensor, which is always the same."""
        if self.written is None:
            queries, low, high, dtype = self.rule
            visible = self.seen[:, None, None, :].expand(-1, -1, queries, -1)
            band = in_band(queries, self.seen.shape[1], low, high, self.seen.device)
            zero = torch.zeros((), dtype=dtype, device=self.seen.device)
            visible = visible if band is None else visible & band
            self.written = torch.where(visible, zero, torch.finfo(dtype).min)
        return self.written

    def pattern(self) -> Pattern | None:
        """Without looking; None where nothing is known any more."""
        queries, low, high, _ = self.rule
        pattern = None if self.shared else band_pattern(queries, self.seen.shape[1], low, high)
        if pattern is None:
            return None
        seen = self.seen[:, : pattern.keys]
        return pattern if bool(seen.all()) else pattern._replace(mask=seen[:, None, None, :])

    def __repr__(self) -> str:
        return f"LazyMask({self.whole()!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.whole().clone()

    @property
    def data(self) -> Tensor:
        """As of every tensor: it shares the numbers, and what is assigned takes their place."""
        return self._given_away().data

    @data.setter
    def data(self, numbers: Tensor) -> None:
        self._given_away().data = numbers

    def share_memory_(self) -> LazyMask:
        self._given_away().share_memory_()
        return self

    def _given_away(self) -> Tensor:
        """All of its numbers for someone who may write to them."""
        self.shared = True
        return self.whole()

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["seen"], self.rule

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], rule: Any, size: Any, stride: Any) -> LazyMask:
        return LazyMask(inner["seen"], *rule)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = any(argument.alias_info is not None for argument in func._schema.arguments)

        def plain(x: Any) -> Any:
            if not isinstance(x, LazyMask):
                return x
            return x._given_away() if aliases else x.whole()

        return func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))


def _of_the_numbers(name: str) -> Callable[..., Any]:
    def method(self: LazyMask, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._given_away(), name)(*args, **kwargs)

    return method


# Ways to the memory of a tensor that are no operators: what is there is not the mask.
_WAYS = ("numpy", "__array__", "tolist", "__dlpack__", "__dlpack_device__", "__reduce_ex__")
for _name in (*_WAYS, "apply_", "map_", "map2_"):  # not its storage, which compilers ask for
    setattr(LazyMask, _name, _of_the_numbers(_name))


def lazy_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction = causal_mask_function,
    attention_mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **rest: Any,
) -> Tensor | None:
    """transformers' `eager_mask`, unwritten where its pattern is known beforehand."""
    written = functools.partial(
        eager_mask, batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        dtype, use_vmap=use_vmap, device=device, **rest,
    )  # fmt: skip
    if is_watched() or torch.device(device).type != "cpu" or use_vmap or q_length == 1:
        return written()
    limits = limits_of(mask_function)
    if limits is None:
        return written()
    seen = _seen(attention_mask, batch_size, kv_length, kv_offset)
    if rest.get("allow_is_bidirectional_skip") and limits == (None, None) and bool(seen.all()):
        return written()
    shift = int(q_offset) - kv_offset
    low, high = (None if limit is None else limit + shift for limit in limits)
    return LazyMask(seen, q_length, low, high, dtype)


def _seen(attention_mask: Tensor | None, batch: int, keys: int, first: int) -> Tensor:
    """(batch, keys) of those that are no padding; what the padding mask does not reach is hidden."""
    if attention_mask is None:
        return torch.ones(1, keys, dtype=torch.bool, device="cpu").expand(batch, -1)
    missing = max(0, first + keys - attention_mask.shape[1])
    return functional.pad(attention_mask.bool(), (0, missing))[:, first : first + keys]


def is_watched() -> bool:
    """Whether operations are recorded, so that numbers of now must not decide anything."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None  # a transform of torch.func
    )
