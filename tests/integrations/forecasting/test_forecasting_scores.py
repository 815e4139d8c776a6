"""PatchTST's scores, summed over layers and masked, as products of concatenated queries and keys."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("neuralforecast")

from neuralforecast.models.patchtst import _ScaledDotProductAttention
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashbench.integrations.forecasting import swap
from flashbench.integrations.torch import reset_stats, stats


def layers(count: int, head_dim: int, *, lsa: bool = False, residual: bool = True) -> list[Any]:
    found = [
        _ScaledDotProductAttention(2 * head_dim, 2, res_attention=residual, lsa=lsa).double()
        for _ in range(count)
    ]
    if lsa:
        for index, layer in enumerate(found):
            layer.scale.data.mul_(1 + 0.3 * index)
    return found


def through(stack: list[Any], head_dim: int, head_dim_v: int, **masks: Any) -> list[Any]:
    """Outputs of layers with summed scores, and the gradients by all inputs."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 11, head_dim)] * 2 + [(2, 2, 11, head_dim_v)]
    total, prev, leaves = 0.0, None, []
    for layer in stack:
        q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
        o, _, prev = layer(q, k.transpose(2, 3), v, prev=prev, **masks)
        total = total + (o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum()
        leaves += [q, k, v] + ([layer.scale] if layer.lsa else [])
    return [total.detach(), *torch.autograd.grad(total, leaves)]


def hidden() -> Any:
    mask = torch.rand(1, 11, 11, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[..., 0] = False  # a row without keys would be NaN in the original
    return mask


@pytest.mark.parametrize("attention", ["flash", "standard", "torch-flash", "torch-math"])
@pytest.mark.parametrize("lsa", [False, True])
@pytest.mark.parametrize("masks", ["", "bool", "float", "padding", "bool, padding", "float, padding"])
def test_scores_of_three_layers_add_up(attention: str, lsa: bool, masks: str) -> None:
    given: dict[str, Any] = {}
    if "bool" in masks:
        given["attn_mask"] = hidden()
    if "float" in masks:
        given["attn_mask"] = torch.randn(1, 11, 11, generator=torch.Generator().manual_seed(4)).double()
    if "padding" in masks:
        given["key_padding_mask"] = torch.tensor([[False] * 11, [False] * 7 + [True] * 4])
    stack = layers(3, 4, lsa=lsa)
    expected = through(stack, 4, 6, **given)
    found = through([swap(copy.deepcopy(layer), attention) for layer in stack], 4, 6, **given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_layers_too_wide_together_fall_back_and_are_counted() -> None:
    stack = layers(4, 100)  # two fit into 256
    expected = through(stack, 100, 5)
    reset_stats()
    with pytest.warns(UserWarning, match="adds up to more than 256"):
        found = through([swap(layer) for layer in stack], 100, 5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert stats().forwards == 2
    assert list(stats().fallbacks.values()) == [2]


@pytest.mark.parametrize("shape", [(11, 11), (1, 11, 11)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_without_residual_scores_are_pytorchs(shape: tuple[int, ...], kind: str) -> None:
    mask = ~hidden().view(shape)  # there, True may attend
    mask = mask if kind == "bool" else torch.randn(shape).double()
    (layer,) = layers(1, 4, residual=False)
    q, k, v = torch.randn(3, 2, 2, 11, 4, dtype=torch.float64)
    padding = torch.ones(2, 11, dtype=torch.bool)  # the original ignores it
    expected, _ = layer(q, k.transpose(2, 3), v, attn_mask=mask, key_padding_mask=padding)
    found, _ = swap(layer)(q, k.transpose(2, 3), v, attn_mask=mask, key_padding_mask=padding)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_weights_are_the_originals() -> None:
    (layer,) = layers(1, 4)
    q, k, v = torch.randn(3, 2, 2, 11, 4, dtype=torch.float64)
    for mask in (None, hidden(), torch.randn(1, 11, 11).double()):
        _, expected, _ = layer(q, k.transpose(2, 3), v, attn_mask=mask)
        _, found, _ = swap(copy.deepcopy(layer))(q, k.transpose(2, 3), v, attn_mask=mask)
        torch.testing.assert_close(found.tensor(), expected)


def test_pytorch_is_given_what_its_flash_kernel_takes() -> None:
    stack = layers(3, 4)
    expected = through(stack, 4, 4)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises if flash cannot run it
        found = through([swap(layer, "torch-flash") for layer in stack], 4, 4)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
