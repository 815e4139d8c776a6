"""`bert_padding` against indexing by a mask, `layers.rotary` against complex numbers."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from flashbench.errors import AttentionError
from flashbench.integrations.flash_attn.bert_padding import (
    index_first_axis,
    index_put_first_axis,
    pad_input,
    unpad_input,
    unpad_input_for_concatenated_sequences,
)
from flashbench.integrations.flash_attn.rotary import (
    RotaryEmbedding,
    apply_rotary_emb,
    apply_rotary_emb_kv_,
    apply_rotary_emb_qkv_,
    apply_rotary_emb_torch,
)


@given(seed=st.integers(0, 999), batch=st.integers(1, 4), seqlen=st.integers(1, 9), whole=st.booleans())
def test_unpadded_rows_are_those_of_the_mask(seed: int, batch: int, seqlen: int, whole: bool) -> None:
    torch.manual_seed(seed)
    x = torch.randn(batch, seqlen, 2, 3, requires_grad=True, dtype=torch.float64)
    mask = torch.rand(batch, seqlen) < 0.6
    rows, indices, bounds, longest, used = unpad_input(x, mask.long() if whole else mask)
    assert torch.equal(rows, x[mask])
    assert torch.equal(x.flatten(0, 1)[indices], rows)
    assert bounds.dtype is used.dtype is torch.int32
    assert bounds.tolist() == [0, *mask.sum(1).cumsum(0).tolist()]
    assert used.tolist() == mask.sum(1).tolist()
    assert longest == mask.sum(1).max()
    padded = pad_input(rows, indices, batch, seqlen)
    assert torch.equal(padded, x * mask[..., None, None])
    (gradient,) = torch.autograd.grad((padded**2).sum(), x)
    torch.testing.assert_close(gradient, 2 * padded)


def test_tokens_that_are_allocated_and_not_used() -> None:
    mask, unused = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 0, 1, 0]])
    rows, _, bounds, longest, used = unpad_input(torch.arange(4).view(1, 4, 1), mask, unused)
    assert rows.flatten().tolist() == [0, 1, 2]
    assert (bounds.tolist(), longest, used.tolist()) == ([0, 3], 3, [2])


def test_several_sequences_in_a_row() -> None:
    lengths = torch.tensor([[2, 3, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0]])
    x = torch.arange(18).view(3, 6, 1)
    rows, _, bounds, longest = unpad_input_for_concatenated_sequences(x, lengths)
    assert bounds.tolist() == [0, 2, 5, 8, 10, 16]
    assert longest == 6
    assert rows.flatten().tolist() == [*range(5), *range(6, 11), *range(12, 18)]


def test_first_axis() -> None:
    x, indices = torch.randn(5, 2), torch.tensor([3, 0])
    assert torch.equal(index_first_axis(x, indices), x[indices])
    put = index_put_first_axis(x[indices], indices, 5)
    assert torch.equal(put[indices], x[indices])
    assert not put[[1, 2, 4]].any()


def turned(x: Any, angles: Any, interleaved: bool) -> Any:
    """By complex numbers. angles: broadcast to x's first axes and pairs."""
    size = 2 * angles.shape[-1]
    part = x[..., :size]
    pairs = part.unflatten(-1, (-1, 2)) if interleaved else torch.stack(part.chunk(2, -1), -1)
    product = torch.view_as_real(
        torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)
    )
    found = product.flatten(-2) if interleaved else torch.cat(product.unbind(-1), -1)
    return torch.cat((found, x[..., size:]), -1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("offsets", [0, 3, torch.tensor([1, 4])], ids=["none", "one", "each"])
def test_rotation(offsets: Any, inplace: bool, interleaved: bool) -> None:
    x, angles = torch.randn(2, 5, 3, 12, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    positions = torch.arange(5) + (offsets if isinstance(offsets, int) else offsets[:, None])
    expected = turned(x, angles[positions].unsqueeze(-2).expand(2, 5, 1, 4), interleaved)
    given_x = x.clone()
    found = apply_rotary_emb(given_x, angles.cos(), angles.sin(), interleaved, inplace, offsets)
    torch.testing.assert_close(found, expected)
    assert torch.equal(given_x, found if inplace else x)


def test_rotation_of_packed_rows_and_its_gradient() -> None:
    x = torch.randn(7, 2, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(9, 4, dtype=torch.float64)
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)

    def rotate(x: Any) -> Any:
        return apply_rotary_emb(
            x, angles.cos(), angles.sin(), seqlen_offsets=torch.tensor([5, 0]), cu_seqlens=bounds
        )

    positions = torch.tensor([5, 6, 7, 0, 1, 2, 3])
    torch.testing.assert_close(rotate(x), turned(x, angles[positions][:, None], False))
    assert torch.autograd.gradcheck(rotate, x)


def test_half_precision_is_rounded_once() -> None:
    x, angles = torch.randn(1, 5, 2, 8).bfloat16(), torch.randn(5, 4)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    wide = apply_rotary_emb(x.float(), cos.float(), sin.float())
    assert torch.equal(apply_rotary_emb(x, cos, sin), wide.bfloat16())
    assert torch.equal(apply_rotary_emb_torch(x, cos, sin), wide.bfloat16())


def test_packed_tensors_in_place() -> None:
    angles = torch.randn(2, 6, 4)
    cos, sin = angles.cos(), angles.sin()
    qkv = torch.randn(2, 6, 3, 2, 8)
    q, k, v = (x.clone() for x in qkv.unbind(2))
    found = apply_rotary_emb_qkv_(qkv, cos[0], sin[0], cos[1], sin[1], seqlen_offsets=0)
    assert found is qkv
    torch.testing.assert_close(qkv[:, :, 0], apply_rotary_emb(q, cos[0], sin[0]))
    torch.testing.assert_close(qkv[:, :, 1], apply_rotary_emb(k, cos[1], sin[1]))
    assert torch.equal(qkv[:, :, 2], v)
    shared = torch.cat((q.repeat(1, 1, 2, 1), k, v), 2)
    apply_rotary_emb_qkv_(shared, cos[0], sin[0], num_heads_q=4)
    torch.testing.assert_close(shared[:, :, 4:6], apply_rotary_emb(k, cos[0], sin[0]))
    kv = torch.stack((k, v), 2)
    apply_rotary_emb_kv_(kv, cos[0], sin[0])
    torch.testing.assert_close(kv[:, :, 0], shared[:, :, 4:6])


def test_the_layer_turns_by_powers_of_its_base() -> None:
    layer = RotaryEmbedding(8, base=100.0)
    q, kv = torch.randn(2, 5, 2, 12), torch.randn(2, 5, 2, 2, 12)
    angles = torch.outer(torch.arange(3, 8), 100.0 ** -(torch.arange(0, 8, 2) / 8)).float()
    expected = [turned(x, angles[:, None], False) for x in (q, kv[:, :, 0])]
    found_q, found_kv = layer(q.clone(), kv.clone(), seqlen_offset=3)
    torch.testing.assert_close(found_q, expected[0])
    torch.testing.assert_close(found_kv[:, :, 0], expected[1])
    qkv = torch.cat((q.unsqueeze(2), kv), 2)
    assert torch.equal(layer(qkv, seqlen_offset=3)[:, :, 0], found_q)


def test_the_layers_frequencies_may_be_set() -> None:
    layer, slower = RotaryEmbedding(8), RotaryEmbedding(8)
    slower.inv_freq /= 4
    q, kv = torch.randn(1, 9, 1, 8), torch.randn(1, 9, 2, 1, 8)
    far, _ = slower(q.clone(), kv.clone())
    near, _ = layer(q.clone(), kv.clone())
    torch.testing.assert_close(
        far[:, 8], layer(q[:, 8:].clone(), kv[:, 8:].clone(), seqlen_offset=2)[0][:, 0]
    )
    assert not torch.equal(far, near)


def test_scores_of_xpos_depend_on_the_distance_alone() -> None:
    layer = RotaryEmbedding(8, scale_base=16.0)
    q = torch.randn(1, 1, 1, 8).expand(1, 6, 1, 8).contiguous()
    kv = torch.randn(1, 1, 2, 1, 8).expand(1, 6, 2, 1, 8).contiguous()
    q, kv = layer(q, kv)
    scores = torch.einsum("bqhd,bkhd->qk", q, kv[:, :, 0])
    for distance in range(-5, 6):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))


@pytest.mark.parametrize(("size", "rows"), [(10, 5), (4, 3)], ids=["too wide", "too few"])
def test_refused(size: int, rows: int) -> None:
    angles = torch.zeros(rows, size // 2)
    with pytest.raises(AttentionError):
        apply_rotary_emb(torch.zeros(1, 5, 2, 8), angles, angles)
    with pytest.raises(AttentionError, match="num_heads_q"):
        apply_rotary_emb_qkv_(torch.zeros(1, 5, 6, 8), angles, angles)
