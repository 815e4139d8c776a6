"""Masks whose numbers are written only when code reads them.

Transformers makes one mask for all layers, in its eager form of (batch, 1, queries, keys) numbers. Kernels
need only its pattern. So a mask that is a band plus padding stays unwritten, which saves 256 MB per sequence
at 8192 tokens. A model that adds the mask to its own scores gets the numbers.
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
    """(batch, 1, queries, keys): 0 if query i sees key j, else the dtype's lowest number.

    Query i sees key j if unpadded[batch, j] and low <= j - i <= high.
    """

    unpadded: Tensor  # (batch, keys), True for keys that are not padding
    rule: tuple[int, int | None, int | None, torch.dtype]  # queries, low, high, dtype
    written: Tensor | None  # all of the numbers, once code has read them
    found: Pattern | None  # once a layer has asked for it: all layers share the mask
    shared: bool  # other code may write to `written`

    # Operators go only to __torch_dispatch__, so their results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(
        cls: type[LazyMask],
        unpadded: Tensor,
        queries: int,
        low: int | None,
        high: int | None,
        dtype: torch.dtype,
    ) -> LazyMask:
        batch, keys = unpadded.shape
        made: LazyMask = Tensor._make_wrapper_subclass(
            cls, (batch, 1, queries, keys), dtype=dtype, device=unpadded.device
        )
        made.unpadded, made.rule = unpadded, (queries, low, high, dtype)
        made.written, made.found, made.shared = None, None, False
        return made

    def whole(self) -> Tensor:
        """All of its numbers, as a plain tensor: the same tensor at every call."""
        if self.written is None:
            queries, low, high, dtype = self.rule
            visible = self.unpadded[:, None, None, :].expand(-1, -1, queries, -1)
            band = in_band(queries, self.unpadded.shape[1], low, high, self.unpadded.device)
            zero = torch.zeros((), dtype=dtype, device=self.unpadded.device)
            visible = visible if band is None else visible & band
            self.written = torch.where(visible, zero, torch.finfo(dtype).min)
        return self.written

    def pattern(self) -> Pattern | None:
        """The pattern, without writing numbers; None if none fits, or other code may have changed them."""
        if self.shared:
            return None
        if self.found is None:
            queries, low, high, _ = self.rule
            pattern = band_pattern(queries, self.unpadded.shape[1], low, high)
            if pattern is None:
                return None
            unpadded = self.unpadded[:, : pattern.keys]
            whole = bool(unpadded.all())
            self.found = pattern if whole else pattern._replace(mask=unpadded[:, None, None, :])
        return self.found

    def __repr__(self) -> str:
        return f"LazyMask({self.whole()!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.whole().clone()

    @property
    def data(self) -> Tensor:
        """As in every tensor: a tensor that shares the numbers. Assignment replaces them."""
        return self._given_away().data

    @data.setter
    def data(self, numbers: Tensor) -> None:
        self._given_away().data = numbers

    def share_memory_(self) -> LazyMask:
        self._given_away().share_memory_()
        return self

    def _given_away(self) -> Tensor:
        """All of its numbers, for code that may write to them."""
        self.shared = True
        return self.whole()

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["unpadded"], self.rule

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], rule: Any, size: Any, stride: Any) -> LazyMask:
        return LazyMask(inner["unpadded"], *rule)

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


# These methods read or write a tensor's memory without an operator, and a LazyMask's memory is not the mask.
_WAYS = ("numpy", "__array__", "tolist", "__dlpack__", "__dlpack_device__", "__reduce_ex__")
for _name in (*_WAYS, "apply_", "map_", "map2_"):  # storage stays as it is: compilers read it
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
    """transformers' `eager_mask`, but a LazyMask if the mask is known to be a band plus padding."""
    written = functools.partial(
        eager_mask, batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        dtype, use_vmap=use_vmap, device=device, **rest,
    )  # fmt: skip
    if is_watched() or torch.device(device).type != "cpu" or use_vmap:
        return written()
    limits = limits_of(mask_function)
    if limits is None:
        return written()
    unpadded = _unpadded(attention_mask, batch_size, kv_length, kv_offset)
    if rest.get("allow_is_bidirectional_skip") and limits == (None, None) and bool(unpadded.all()):
        return written()
    shift = int(q_offset) - kv_offset
    low, high = (None if limit is None else limit + shift for limit in limits)
    return LazyMask(unpadded, q_length, low, high, dtype)


def _unpadded(attention_mask: Tensor | None, batch: int, keys: int, first: int) -> Tensor:
    """(batch, keys): True for keys that are not padding. Keys after the padding mask's end are False."""
    if attention_mask is None:
        return torch.ones(1, keys, dtype=torch.bool, device="cpu").expand(batch, -1)
    missing = max(0, first + keys - attention_mask.shape[1])
    return functional.pad(attention_mask.bool(), (0, missing))[:, first : first + keys]


def is_watched() -> bool:
    """Whether operations are being recorded. The present numbers must then not decide anything."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None  # a transform of torch.func
    )
