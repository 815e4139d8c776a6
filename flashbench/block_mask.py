"""A mask whose hidden blocks are neither stored nor computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.errors import AttentionError

# mask = predicate(batch, head, query, key); the arguments are integer arrays that broadcast together.
Predicate = Callable[[Any, Any, Any, Any], Any]
_WHOLE = -1


class BlockMask(NamedTuple):
    """A mask as a list of its visible blocks, each block_q queries by block_k keys, row of blocks by row.

    A block is visible if any of its pairs is. Make a mask with `from_mask` or `from_predicate`. Attention's
    work and memory are proportional to the visible blocks. A batch or num_heads of 1 is broadcast.
    """

    shape: tuple[int, int, int, int]  # (batch or 1, num_heads or 1, seqlen_q, seqlen_k)
    block_q: int
    block_k: int
    row_starts: NDArray[np.int64]  # (batch or 1, num_heads or 1, rows of blocks + 1): indices into `columns`
    columns: NDArray[np.int64]  # (visible blocks,): block column, ascending within a row of blocks
    parts: NDArray[np.int64]  # (visible blocks,): index into `partial`, or -1 if all of the block is visible
    partial: NDArray[np.bool_]  # (partly visible blocks, block_q, block_k); False beyond the lengths

    @classmethod
    def from_mask(cls, mask: Any, block: int | tuple[int, int] = 128) -> BlockMask:
        """From a bool array (True = may attend): (seqlen_q, seqlen_k), with 0 to 2 axes before them.

        block: queries and keys of a block, one number for both or a pair. Raises AttentionError.

        >>> mask = BlockMask.from_mask(np.tri(256, dtype=bool), block=64)
        >>> mask.visible_blocks, mask.total_blocks
        (10, 16)
        """
        mask = np.asarray(mask)
        if mask.dtype != np.bool_:
            raise AttentionError(
                f"mask must be a bool array, True where a query may attend, not {mask.dtype}"
            )
        if mask.ndim not in (2, 3, 4) or not mask.size:
            raise AttentionError(f"mask must have 2 to 4 dimensions and not be empty, not shape {mask.shape}")
        whole = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)

        def rows(b: int, h: int, queries: slice) -> NDArray[np.bool_]:
            return np.asarray(whole[b, h, queries])

        return _build(whole.shape, _sizes(block), rows)

    @classmethod
    def from_predicate(
        cls,
        predicate: Predicate,
        seqlen_q: int,
        seqlen_k: int,
        *,
        batch: int = 1,
        num_heads: int = 1,
        block: int | tuple[int, int] = 128,
    ) -> BlockMask:
        """From predicate(batch, head, query, key) on integer arrays, called once per row of blocks.

        batch and num_heads: 1 if the mask is the same for all. block: queries and keys of a block, one
        number for both or a pair. Raises AttentionError.

        >>> document = np.repeat([0, 1], 128)
        >>> same = lambda b, h, q, k: document[q] == document[k]
        >>> BlockMask.from_predicate(same, 256, 256, block=64).visible_blocks
        8
        """
        keys = np.arange(seqlen_k)[np.newaxis, :]

        def rows(b: int, h: int, queries: slice) -> NDArray[np.bool_]:
            indices = np.arange(queries.start, queries.stop)[:, np.newaxis]
            found = np.asarray(predicate(b, h, indices, keys))
            if found.dtype != np.bool_:
                raise AttentionError(f"the predicate must return bool, not {found.dtype}")
            return np.broadcast_to(found, (len(indices), seqlen_k))

        for name, size in (
            ("batch", batch),
            ("num_heads", num_heads),
            ("seqlen_q", seqlen_q),
            ("seqlen_k", seqlen_k),
        ):
            if size < 1:
                raise AttentionError(f"{name} must be at least 1, not {size}")
        return _build((batch, num_heads, seqlen_q, seqlen_k), _sizes(block), rows)

    @property
    def visible_blocks(self) -> int:
        """Number of blocks with a visible pair, over batch and heads."""
        return len(self.columns)

    @property
    def total_blocks(self) -> int:
        """Number of all blocks, over batch and heads."""
        batch, num_heads, seqlen_q, seqlen_k = self.shape
        return batch * num_heads * -(-seqlen_q // self.block_q) * -(-seqlen_k // self.block_k)

    @property
    def nbytes(self) -> int:
        """Bytes of the mask's arrays."""
        return sum(x.nbytes for x in (self.row_starts, self.columns, self.parts, self.partial))

    def rows(self, b: int, h: int, queries: slice) -> NDArray[np.bool_]:
        """The mask of some queries of one head as a bool array: (queries, seqlen_k).

        >>> BlockMask.from_mask(np.tri(4, dtype=bool), block=2).rows(0, 0, slice(2, 3))
        array([[ True,  True,  True, False]])
        """
        batch, num_heads, seqlen_q, seqlen_k = self.shape
        b, h = b if batch > 1 else 0, h if num_heads > 1 else 0
        start, stop, _ = queries.indices(seqlen_q)
        mask = np.zeros((max(0, stop - start), seqlen_k), np.bool_)
        for row in range(start // self.block_q, -(-stop // self.block_q)):
            first = row * self.block_q
            top, bottom = max(first, start), min(first + self.block_q, stop)
            for place in range(self.row_starts[b, h, row], self.row_starts[b, h, row + 1]):
                k_start = self.columns[place] * self.block_k
                target = mask[top - start : bottom - start, k_start : k_start + self.block_k]
                part = self.parts[place]
                if part == _WHOLE:
                    target[...] = True
                else:
                    target[...] = self.partial[part, top - first : bottom - first, : target.shape[1]]
        return mask

    def dense(self) -> NDArray[np.bool_]:
        """The whole mask as a bool array of `shape`."""
        mask = np.empty(self.shape, np.bool_)
        for b, h in np.ndindex(*self.shape[:2]):
            mask[b, h] = self.rows(b, h, slice(None))
        return mask


def _sizes(block: int | tuple[int, int]) -> tuple[int, int]:
    sizes = block if isinstance(block, tuple) else (block, block)
    if len(sizes) != 2 or any(isinstance(size, bool) or int(size) != size or size < 1 for size in sizes):
        raise AttentionError(f"block must be a whole number from 1 up, or a pair of them, not {block!r}")
    return int(sizes[0]), int(sizes[1])


def _build(
    shape: tuple[int, ...], sizes: tuple[int, int], rows: Callable[[int, int, slice], NDArray[np.bool_]]
) -> BlockMask:
    batch, num_heads, seqlen_q, seqlen_k = shape
    block_q, block_k = sizes
    starts = range(0, seqlen_q, block_q)
    row_starts = np.zeros((batch, num_heads, len(starts) + 1), np.int64)
    columns: list[int] = []
    parts: list[int] = []
    partial: list[NDArray[np.bool_]] = []
    for b, h in np.ndindex(batch, num_heads):
        row_starts[b, h, 0] = len(columns)
        for row, start in enumerate(starts):
            visible = rows(b, h, slice(start, min(start + block_q, seqlen_q)))
            for column, block in _blocks(visible, block_k):
                columns.append(column)
                parts.append(_WHOLE if block.all() else len(partial))
                if parts[-1] != _WHOLE:
                    padding = ((0, block_q - block.shape[0]), (0, block_k - block.shape[1]))
                    partial.append(np.pad(block, padding))
            row_starts[b, h, row + 1] = len(columns)
    return BlockMask(
        (batch, num_heads, seqlen_q, seqlen_k),
        block_q,
        block_k,
        row_starts,
        np.array(columns, np.int64),
        np.array(parts, np.int64),
        np.stack(partial) if partial else np.empty((0, block_q, block_k), np.bool_),
    )


def _blocks(visible: NDArray[np.bool_], block_k: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """(column, block) of each block with a visible pair, in one row of blocks."""
    visible_keys = np.asarray(visible.any(axis=0))
    for column, start in enumerate(range(0, visible.shape[1], block_k)):
        if visible_keys[start : start + block_k].any():
            yield column, visible[:, start : start + block_k]
