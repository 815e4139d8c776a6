"""Key/value caches for decoding, with spare room for new tokens: in one array each, or in pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flashbench.arguments.arrays import (
    KNOWN_DTYPES,
    as_array,
    as_published,
    as_whole_numbers,
    dtype_of,
    in_storage,
)
from flashbench.arguments.options import BatchOptions, Options, with_options
from flashbench.arguments.values import as_count, as_size
from flashbench.dtypes import DEFAULT_DTYPE, DTYPES, Dtype
from flashbench.engines import Array
from flashbench.errors import AttentionError
from flashbench.functional import AttentionOutput, attention
from flashbench.problem import MAX_HEAD_DIM

if TYPE_CHECKING:
    from typing_extensions import Unpack

WholeNumbers = NDArray[np.int64]


class _Cache(ABC):
    """The lengths and checks that both caches share. Subclasses decide where keys and values go."""

    _k: Array  # (sequences or pages, num_kv_heads, tokens, head_dim)
    _v: Array

    def __init__(
        self, batch: int, num_kv_heads: int, head_dim: int, head_dim_v: int | None, dtype: Dtype
    ) -> None:
        self._num_kv_heads = as_size("num_kv_heads", num_kv_heads)
        self._head_dim = _as_head_dim("head_dim", head_dim)
        self._head_dim_v = self._head_dim if head_dim_v is None else _as_head_dim("head_dim_v", head_dim_v)
        self._dtype = _as_dtype(dtype)
        self._lengths = np.zeros(as_size("batch", batch), np.int64)

    @abstractmethod
    def _reserve(self, sequences: WholeNumbers, lengths: WholeNumbers) -> None:
        """Make room for these sequences at these new lengths. No length is below the present one."""

    @abstractmethod
    def _places(self, sequences: WholeNumbers, positions: WholeNumbers) -> tuple[Any, Any]:
        """Indices into the first and third axis of k and v, for positions (sequences, new tokens)."""

    def _shorten(self, lengths: WholeNumbers) -> None:
        self._lengths = lengths

    def _allocate(self, first: int, tokens: int) -> tuple[Array, Array]:
        """k and v of these sizes, zeroed: rows that were never written must not be NaN."""
        rows = first, self._num_kv_heads, tokens
        storage = DTYPES[self._dtype].storage
        return (
            as_published(np.zeros((*rows, self._head_dim), storage), self._dtype),
            as_published(np.zeros((*rows, self._head_dim_v), storage), self._dtype),
        )

    @property
    @abstractmethod
    def k(self) -> Array:
        """The keys, for `attention`."""

    @property
    @abstractmethod
    def v(self) -> Array:
        """The values, for `attention`."""

    @property
    @abstractmethod
    def block_table(self) -> WholeNumbers | None:
        """The pages of each sequence, for `attention`; None: there are no pages."""

    @property
    def key_lengths(self) -> WholeNumbers:
        """(batch,): the number of tokens of each sequence; a copy."""
        return self._lengths.copy()

    def __len__(self) -> int:
        """Number of tokens of the longest sequence."""
        return int(self._lengths.max())

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values, with their spare room."""
        return self._k.nbytes + self._v.nbytes

    def append(self, k: Any, v: Any, *, sequence: int | None = None) -> None:
        """Copy the keys and values of new tokens to the end of each sequence, or of one sequence.

        k: (batch, num_kv_heads, new, head_dim); v: (batch, num_kv_heads, new, head_dim_v); any number of new
        tokens. With `sequence`: both without the batch axis. They have the cache's dtype. A cache of float16
        or bfloat16 takes float32 too, and rounds. Raises AttentionError, and then changes nothing.
        """
        sequences = np.arange(len(self._lengths))
        if sequence is not None:
            sequences = sequences[[self._as_sequence(sequence)]]
        k = self._as_new("k", k, self._head_dim, sequence)
        v = self._as_new("v", v, self._head_dim_v, sequence)
        new = k.shape[2]
        if v.shape[2] != new:
            raise AttentionError(f"k and v must be of as many new tokens, not {new} and {v.shape[2]}")
        before = self._lengths[sequences]
        self._reserve(sequences, before + new)
        first, third = self._places(sequences, before[:, np.newaxis] + np.arange(new))
        # A slice between two index arrays: NumPy puts their axes first, (sequence, token, head, dim).
        self._k[first, :, third] = k.swapaxes(1, 2)
        self._v[first, :, third] = v.swapaxes(1, 2)
        self._lengths[sequences] += new

    @with_options(Options)
    def attention(
        self, q: Any, *, return_lse: bool = False, **options: Unpack[Options]
    ) -> Array | AttentionOutput:
        """`flashbench.attention` of new queries (batch, num_heads, seqlen_q, head_dim) to the cached tokens.

        q has the cache's dtype. A cache of float16 or bfloat16 takes float32 too: q is rounded to the cache's
        dtype, and o is float32 again. That is for models that compute in float32 and keep their keys in half
        the memory. Other arguments, results and errors are those of `flashbench.attention`.
        """
        given = as_array("q", q)
        k, v, lengths, table = self.k, self.v, self.key_lengths, self.block_table
        q = in_storage("q", given, "the cache", self._dtype)
        places: BatchOptions = {**options, "key_lengths": lengths, "block_table": table}
        # Not every engine gives an lse, so only a caller who wants it asks for it.
        o, *lse = (
            attention(q, k, v, return_lse=True, **places) if return_lse else (attention(q, k, v, **places),)
        )
        if dtype_of(given.dtype) != self._dtype:
            o = o.astype(given.dtype)
        return AttentionOutput(o, *lse) if return_lse else o

    def truncate(self, lengths: Any) -> None:
        """Forget the tokens after these lengths.

        lengths: (batch,), or one number that is the most tokens of any sequence. Raises AttentionError.
        """
        if isinstance(lengths, (int, np.integer)):
            as_count("lengths", lengths, least=0)
            self._shorten(np.minimum(self._lengths, lengths))
            return
        wanted = as_whole_numbers("lengths", lengths)
        if wanted.shape != self._lengths.shape:
            raise AttentionError(
                f"lengths must be one number or have shape {self._lengths.shape}, not {wanted.shape}"
            )
        for sequence, (length, has) in enumerate(zip(wanted, self._lengths, strict=True)):
            if not 0 <= length <= has:
                raise AttentionError(
                    f"lengths must be from 0 to {has}, which sequence {sequence} has, not {length}"
                )
        self._shorten(wanted.astype(np.int64))

    def free(self, sequence: int) -> None:
        """Forget all tokens of one sequence, so that another can take its place. Raises AttentionError."""
        lengths = self._lengths.copy()
        lengths[self._as_sequence(sequence)] = 0
        self._shorten(lengths)

    def _as_sequence(self, sequence: int) -> int:
        batch = len(self._lengths)
        index = as_count("sequence", sequence, least=0)
        if index is None or index >= batch:
            raise AttentionError(f"sequence must be from 0 to {batch - 1}, not {sequence}")
        return index

    def _as_new(self, name: str, value: Any, width: int, sequence: int | None) -> Array:
        """New keys or values as (number of sequences, num_kv_heads, new, width)."""
        x = as_array(name, value)
        x = in_storage(name, x, "the cache", self._dtype)
        before: tuple[int, ...] = (self._num_kv_heads,)
        if sequence is None:
            before = (len(self._lengths), *before)
        if x.ndim != len(before) + 2 or x.shape[:-2] != before or x.shape[-1] != width:
            shape = ", ".join(map(str, (*before, "new", width)))
            raise AttentionError(f"{name} must have shape ({shape}), not {x.shape}")
        return x[np.newaxis] if sequence is not None else x


class KVCache(_Cache):
    """Keys and values of a batch in one array each. `k` and `v` are views, for `attention`.

    >>> import flashbench
    >>> cache = KVCache(batch=2, num_kv_heads=1, head_dim=4)
    >>> cache.append(np.ones((2, 1, 3, 4)), np.ones((2, 1, 3, 4)))
    >>> cache.append(np.ones((1, 1, 4)), np.ones((1, 1, 4)), sequence=0)
    >>> cache.k.shape, cache.key_lengths
    ((2, 1, 4, 4), array([4, 3]))
    >>> q = np.ones((2, 1, 1, 4))
    >>> flashbench.attention(q, cache.k, cache.v, key_lengths=cache.key_lengths, causal=True).shape
    (2, 1, 1, 4)
    """

    def __init__(
        self,
        batch: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        head_dim_v: int | None = None,
        capacity: int = 128,
        dtype: Dtype = DEFAULT_DTYPE,
    ) -> None:
        """capacity: tokens of room per sequence. One token more at least doubles it. Only that copies the
        cache. Raises AttentionError, and EngineError if "bfloat16" needs ml_dtypes, which is not installed.
        """
        super().__init__(batch, num_kv_heads, head_dim, head_dim_v, dtype)
        self._k, self._v = self._allocate(len(self._lengths), as_size("capacity", capacity))

    @property
    def capacity(self) -> int:
        """The number of tokens that a sequence may have without a copy of the cache."""
        return int(self._k.shape[2])

    @property
    def k(self) -> Array:
        """(batch, num_kv_heads, tokens of the longest sequence, head_dim): a view."""
        return self._k[:, :, : len(self)]

    @property
    def v(self) -> Array:
        """(batch, num_kv_heads, tokens of the longest sequence, head_dim_v): a view."""
        return self._v[:, :, : len(self)]

    @property
    def block_table(self) -> None:
        """None, as there are no pages. Code can pass it to `attention` for either cache."""
        return

    def _reserve(self, sequences: WholeNumbers, lengths: WholeNumbers) -> None:
        longest = int(lengths.max())
        if longest <= self.capacity:
            return
        k, v = self._allocate(len(self._lengths), max(longest, 2 * self.capacity))
        k[:, :, : len(self)], v[:, :, : len(self)] = self.k, self.v
        self._k, self._v = k, v

    def _places(self, sequences: WholeNumbers, positions: WholeNumbers) -> tuple[Any, Any]:
        return sequences[:, np.newaxis], positions


class PagedKVCache(_Cache):
    """Keys and values in pages of one pool. A sequence wastes room only in its last page. Pages that it no
    longer needs go to other sequences.

    Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention".

    >>> import flashbench
    >>> cache = PagedKVCache(batch=2, num_kv_heads=1, head_dim=4, page_size=2)
    >>> cache.append(np.ones((1, 3, 4)), np.ones((1, 3, 4)), sequence=1)
    >>> cache.append(np.ones((2, 1, 1, 4)), np.ones((2, 1, 1, 4)))
    >>> cache.key_lengths, cache.block_table.shape
    (array([1, 4]), (2, 2))
    >>> cache.free(1)
    >>> len(cache)
    1
    """

    def __init__(
        self,
        batch: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        head_dim_v: int | None = None,
        page_size: int = 64,
        num_pages: int | None = None,
        dtype: Dtype = DEFAULT_DTYPE,
    ) -> None:
        """page_size: tokens per page. num_pages: pages in the pool; None: one per sequence. A full pool at
        least doubles. Only that copies the cache. Raises as `KVCache`.
        """
        super().__init__(batch, num_kv_heads, head_dim, head_dim_v, dtype)
        pages = as_count("num_pages", num_pages) or len(self._lengths)
        self._k, self._v = self._allocate(pages, as_size("page_size", page_size))
        self._table = np.zeros((len(self._lengths), 1), np.int64)
        self._free = list(range(pages))

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return int(self._k.shape[2])

    @property
    def num_pages(self) -> int:
        """Number of pages in the pool."""
        return int(self._k.shape[0])

    @property
    def free_pages(self) -> int:
        """Number of pages that no sequence uses."""
        return len(self._free)

    @property
    def k(self) -> Array:
        """(num_pages, num_kv_heads, page_size, head_dim): the pool."""
        return self._k

    @property
    def v(self) -> Array:
        """(num_pages, num_kv_heads, page_size, head_dim_v): the pool."""
        return self._v

    @property
    def block_table(self) -> WholeNumbers:
        """(batch, pages of the longest sequence): each sequence's pages in order, then zeros; a copy."""
        return self._table[:, : max(1, int(self._pages_of(self._lengths).max()))].copy()

    def _reserve(self, sequences: WholeNumbers, lengths: WholeNumbers) -> None:
        has, needs = self._pages_of(self._lengths[sequences]), self._pages_of(lengths)
        missing = int((needs - has).sum()) - len(self._free)
        if missing > 0:
            before = self.num_pages
            k, v = self._allocate(before + max(missing, before), self.page_size)
            k[:before], v[:before] = self._k, self._v
            self._k, self._v = k, v
            self._free += range(before, self.num_pages)
        width = self._table.shape[1]
        if needs.max() > width:
            wider = max(int(needs.max()), 2 * width)
            self._table = np.pad(self._table, ((0, 0), (0, wider - width)))
        for sequence, first, end in zip(sequences, has, needs, strict=True):
            self._table[sequence, first:end] = [self._free.pop() for _ in range(first, end)]

    def _places(self, sequences: WholeNumbers, positions: WholeNumbers) -> tuple[Any, Any]:
        pages, rows = np.divmod(positions, self.page_size)
        return self._table[sequences[:, np.newaxis], pages], rows

    def _shorten(self, lengths: WholeNumbers) -> None:
        for row, first, end in zip(
            self._table, self._pages_of(lengths), self._pages_of(self._lengths), strict=True
        ):
            self._free += row[first:end].tolist()
            row[first:end] = 0
        super()._shorten(lengths)

    def _pages_of(self, lengths: WholeNumbers) -> WholeNumbers:
        """Number of pages that sequences of these lengths use; the last may be partly full."""
        return -(-lengths // self.page_size)


def _as_head_dim(name: str, size: int) -> int:
    size = as_size(name, size)
    if size > MAX_HEAD_DIM:
        raise AttentionError(f"{name} must be at most {MAX_HEAD_DIM}, not {size}")
    return size


def _as_dtype(dtype: Any) -> Dtype:
    """The name of a dtype: its name, NumPy's or ml_dtypes' type, or a dtype object. Raises AttentionError."""
    if dtype == "bfloat16":  # NumPy knows it only once ml_dtypes is imported
        return "bfloat16"
    try:
        found = None if dtype is None else dtype_of(np.dtype(dtype))  # NumPy takes None for its default
    except TypeError:
        found = None
    if found is None:
        raise AttentionError(f"dtype must be {KNOWN_DTYPES}, not {dtype!r}")
    return found
