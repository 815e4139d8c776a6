"""Padded batches to rows end to end and back, as `flash_attn.bert_padding` has it."""

from __future__ import annotations

import torch
from torch import Tensor


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """x[indices]. Differentiable by x."""
    return x[indices]


def index_put_first_axis(values: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """(first_axis_dim, ...) with `values` at `indices`, 0 elsewhere. Differentiable by values."""
    empty = values.new_zeros(first_axis_dim, *values.shape[1:])
    return empty.index_put((indices,), values)


def index_first_axis_residual(x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """(x[indices], x)."""
    return x[indices], x


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """The rows that a mask selects, end to end.

    Args:
        hidden_states: (batch, seqlen, ...).
        attention_mask: (batch, seqlen), bool or whole numbers: 1 is a token.
        unused_mask: the same of tokens that are allocated and not used.

    Returns:
        (rows, indices, cu_seqlens, max_seqlen, seqused): the rows (total, ...); where they were in
        hidden_states.flatten(0, 1); the first row of each sequence and the end of the last, int32; the
        longest sequence's length; the tokens of attention_mask in each.
    """
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    used = attention_mask.sum(-1, dtype=torch.int32)
    return *_selected(hidden_states, kept, kept.sum(-1, dtype=torch.int32)), used


def unpad_input_for_concatenated_sequences(
    hidden_states: Tensor, attention_mask_in_length: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The same for rows of several sequences each.

    attention_mask_in_length: (batch, seqlen): in row b the lengths of its sequences, then zeros. Results are
    the first four of `unpad_input`.
    """
    totals = attention_mask_in_length.sum(-1)
    columns = torch.arange(attention_mask_in_length.shape[-1], device=totals.device)
    lengths = attention_mask_in_length[attention_mask_in_length != 0]
    return _selected(hidden_states, columns < totals[:, None], lengths)


def _selected(x: Tensor, kept: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    indices = kept.flatten().nonzero().flatten()
    bounds = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return index_first_axis(x.flatten(0, 1), indices), indices, bounds, int(lengths.max())


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """(batch, seqlen, ...) of rows (total, ...) that `unpad_input` selected, 0 elsewhere."""
    return index_put_first_axis(hidden_states, indices, batch * seqlen).unflatten(0, (batch, seqlen))
