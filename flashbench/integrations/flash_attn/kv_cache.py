"""flash-attention's function for decoding: it appends to a cache in place and attends to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flashbench.errors import AttentionError
from flashbench.integrations.flash_attn.arguments import (
    Attention,
    check_heads,
    check_pages,
    check_tensors,
    check_whole,
    pages_of,
)
from flashbench.integrations.flash_attn.attend import attend
from flashbench.integrations.flash_attn.rotary import apply_rotary_emb

_ROTARY_UNIT = 16


@torch.no_grad()
def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    learnable_sink: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`flash_attn.flash_attn_with_kvcache`: without gradients.

    Args:
        q: (batch, seqlen_q, heads, head_dim).
        k_cache, v_cache: (entries, room, heads_k, head_dim); with block_table (pages, page_size, heads_k,
            head_dim). New keys are written into them.
        k, v: (batch, new, heads_k, head_dim): they are appended at cache_seqlens.
        rotary_cos, rotary_sin: (positions, rotary_dim / 2), in q's dtype. k is turned by its positions; so is
            q if causal or with a window, else all of q by position cache_seqlens. Need k.
        cache_seqlens: tokens of each entry before this call, (batch,) of int32, or one number; None: all.
        cache_batch_idx: (batch,) of int32: the entry of each sequence.
        cache_leftpad: (batch,) of int32: the first key of each entry. Not with block_table.
        block_table: (batch, pages of the longest) of int32.
        rotary_interleaved: pairs are neighbours, else two halves.
        num_splits: of no effect, as flashbench chooses.
        return_softmax_lse: also return lse.

    The other arguments are those of `flash_attn_func`.

    Returns:
        o: as q. With return_softmax_lse (o, lse): lse (batch, heads, seqlen_q), +inf in a row that sees no
        key.

    Raises:
        AttentionError: an argument breaks a rule, or the cache has no room. Then it is unchanged.
    """
    given = Attention(0.0, softmax_scale, causal, window_size, softcap, alibi_slopes, learnable_sink)
    options = given.options()
    check_tensors(4, q, q=q, k_cache=k_cache, v_cache=v_cache)
    check_heads(q, k_cache, v_cache)
    if q.shape[0] == 0 or q.shape[1] == 0:
        raise AttentionError(f"q must not be empty, but has shape {tuple(q.shape)}")
    cache = _cache_of(len(q), k_cache, v_cache, block_table, cache_batch_idx)
    lengths = _lengths(cache_seqlens, len(q), cache.room)
    if k is not None:
        if v is None or cache_seqlens is None:
            raise AttentionError(f"k needs {'v' if v is None else 'cache_seqlens'}, which is None")
        _check_new(q, k, v, cache, lengths)
    if rotary_cos is not None:
        if k is None or rotary_sin is None:
            raise AttentionError(f"rotary_cos needs {'k' if k is None else 'rotary_sin'}, which is None")
        _check_rotary(q, rotary_cos, rotary_sin, cache.room)
        k = apply_rotary_emb(k, rotary_cos, rotary_sin, rotary_interleaved, seqlen_offsets=lengths)
        q = _rotated(q, rotary_cos, rotary_sin, rotary_interleaved, lengths, in_order=given.local)
    if cache_leftpad is not None:
        if block_table is not None:
            raise AttentionError("cache_leftpad does not go with block_table")
        check_whole("cache_leftpad", cache_leftpad, (len(q),))
        if cache_leftpad.min() < 0:
            raise AttentionError(f"cache_leftpad must be at least 0, not {cache_leftpad.tolist()}")
    put_back = _nothing
    if k is not None and v is not None:
        put_back = cache.append(lengths, k, v)
        lengths = lengths + k.shape[1]
    mask = None
    if cache_leftpad is not None:  # flashbench's pages take no mask
        cache = cache.in_order()
        mask = (torch.arange(cache.room, device="cpu") >= cache_leftpad[:, None])[:, None, None, :]
    options = options._replace(key_lengths=lengths, block_table=cache.table, mask=mask)
    q, keys, values = (x.transpose(1, 2) for x in (q, cache.k, cache.v))
    try:
        o, lse = attend(q, keys, values, options, lse=return_softmax_lse)
    except BaseException:  # Ctrl-C too leaves the cache as it was
        put_back()
        raise
    o = o.transpose(1, 2)
    return o if lse is None else (o, lse)


def _nothing() -> None:
    """What undoes that nothing was appended."""


class _Cache(NamedTuple):
    """Keys and values in pages, or in one entry a sequence where table is None."""

    k: Tensor  # (pages or entries, tokens, heads_k, head_dim)
    v: Tensor
    table: Tensor | None  # (batch, pages of the longest), int32

    @property
    def room(self) -> int:
        """Tokens of each sequence at most."""
        return int(self.k.shape[1] if self.table is None else self.k.shape[1] * self.table.shape[1])

    def append(self, lengths: Tensor, k: Tensor, v: Tensor) -> Callable[[], None]:
        """Write new keys and values after these lengths. Returns what undoes that.

        Raises AttentionError for a page that is not there.
        """
        positions = lengths.long()[:, None] + torch.arange(k.shape[1], device="cpu")
        size = self.k.shape[1]
        sequences = torch.arange(len(lengths), device="cpu")[:, None]
        pages = sequences
        if self.table is not None:
            pages = pages_of(self.table, sequences, positions // size, len(self.k))
        places = pages, positions % size
        before = self.k[places], self.v[places]
        self.k[places], self.v[places] = k, v

        def undo() -> None:
            self.k[places], self.v[places] = before

        return undo

    def in_order(self) -> _Cache:
        """The same with an entry for each sequence, in order; a copy if it was not so."""
        if self.table is None:
            return self
        entries = self.table[:, 0].long()
        return _Cache(self.k[entries], self.v[entries], None)


def _cache_of(batch: int, k: Tensor, v: Tensor, block_table: Tensor | None, entries: Tensor | None) -> _Cache:
    """The cache of a batch. Entries in another order are pages. Raises AttentionError."""
    if block_table is not None:
        if entries is not None:
            raise AttentionError("cache_batch_idx does not go with block_table")
        check_whole("block_table", block_table, (batch, "pages"))
        check_pages(k)
        return _Cache(k, v, block_table)
    if entries is None:
        if len(k) < batch:
            raise AttentionError(f"k_cache must have an entry for each sequence, {batch}, not {len(k)}")
        return _Cache(k[:batch], v[:batch], None)
    check_whole("cache_batch_idx", entries, (batch,))
    if entries.min() < 0 or entries.max() >= len(k):
        raise AttentionError(f"cache_batch_idx must be from 0 to {len(k) - 1}, not {entries.tolist()}")
    return _Cache(k, v, entries[:, None])


def _lengths(given: int | Tensor | None, batch: int, room: int) -> Tensor:
    """The tokens of each sequence, (batch,) of int32. Raises AttentionError."""
    if isinstance(given, Tensor):
        lengths = given
    else:
        lengths = torch.full((batch,), room if given is None else given, dtype=torch.int32, device="cpu")
    check_whole("cache_seqlens", lengths, (batch,))
    if lengths.min() < 0 or lengths.max() > room:
        raise AttentionError(f"cache_seqlens must be from 0 to {room}, not {lengths.tolist()}")
    return lengths


def _check_new(q: Tensor, k: Tensor, v: Tensor, cache: _Cache, lengths: Tensor) -> None:
    check_tensors(4, q, k=k, v=v)
    for name, x, like in (("k", k, cache.k), ("v", v, cache.v)):
        wanted = len(q), k.shape[1], *like.shape[2:]
        if x.shape != wanted:
            raise AttentionError(f"{name} must have shape {wanted}, as {name}_cache, not {tuple(x.shape)}")
    if q.shape[1] > cache.room:
        raise AttentionError(f"with k, q may have {cache.room} rows, as the cache has, not {q.shape[1]}")
    longest = int(lengths.max())
    if longest + k.shape[1] > cache.room:
        raise AttentionError(
            f"the cache has room for {cache.room} tokens, not for {longest} and {k.shape[1]} new ones"
        )


def _check_rotary(q: Tensor, cos: Tensor, sin: Tensor, room: int) -> None:
    size = 2 * cos.shape[-1]
    if size > q.shape[-1] or size % _ROTARY_UNIT:
        raise AttentionError(
            f"rotary_dim must be a multiple of {_ROTARY_UNIT} up to head_dim {q.shape[-1]}, not {size}"
        )
    if len(cos) < room or sin.shape != cos.shape:
        raise AttentionError(
            f"rotary_cos and rotary_sin must have {room} rows, as the cache, not {len(cos)} and {len(sin)}"
        )
    for name, x in (("rotary_cos", cos), ("rotary_sin", sin)):
        if x.dtype is not q.dtype:
            raise AttentionError(f"{name} must have q's dtype {q.dtype}, not {x.dtype}")


def _rotated(
    q: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, lengths: Tensor, *, in_order: bool
) -> Tensor:
    """q turned by its rows' positions, or all rows of a sequence by the position after its last token."""
    if in_order:
        return apply_rotary_emb(q, cos, sin, interleaved, seqlen_offsets=lengths)
    as_one = q.flatten(1, 2).unsqueeze(1)  # heads of one row
    return apply_rotary_emb(as_one, cos, sin, interleaved, seqlen_offsets=lengths).view(q.shape)
