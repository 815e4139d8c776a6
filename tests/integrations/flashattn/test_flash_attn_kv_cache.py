"""`flash_attn_with_kvcache`: what it writes, what it refuses, and that it then leaves the cache alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from flashbench.errors import AttentionError
from flashbench.integrations.flash_attn import flash_attn_func, flash_attn_with_kvcache
from flashbench.integrations.flash_attn.rotary import apply_rotary_emb

INT = torch.int32


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def made(*shape: int) -> Any:
    return torch.randn(*shape, dtype=torch.float64)


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_decoding_step_by_step_equals_one_call() -> None:
    tokens = 9
    q, k, v = made(2, tokens, 4, 16), made(2, tokens, 2, 16), made(2, tokens, 2, 16)
    caches = [torch.zeros(2, 12, 2, 16, dtype=torch.float64) for _ in range(2)]
    cos, sin = torch.randn(12, 8, dtype=torch.float64), torch.randn(12, 8, dtype=torch.float64)
    steps = [
        flash_attn_with_kvcache(
            q[:, i : i + 1], *caches, k[:, i : i + 1], v[:, i : i + 1], cos, sin, cache_seqlens=i,
            causal=True, window_size=(4, 0), softcap=5.0, rotary_interleaved=False,
        )
        for i in range(tokens)
    ]  # fmt: skip
    turned = (apply_rotary_emb(x, cos, sin) for x in (q, k))
    close(torch.cat(steps, 1), flash_attn_func(*turned, v, causal=True, window_size=(4, 0), softcap=5.0))
    assert torch.equal(caches[1][:, :tokens], v)
    assert not caches[1][:, tokens:].any()


def test_whole_cache_without_lengths_and_lse() -> None:
    q, k, v = made(2, 3, 4, 8), made(2, 10, 2, 8), made(2, 10, 2, 8)
    o, lse = flash_attn_with_kvcache(q, k, v, causal=True, return_softmax_lse=True)
    expected = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    close(o, expected[0])
    close(lse, expected[1])
    o, lse = flash_attn_with_kvcache(q, k, v, cache_seqlens=0, return_softmax_lse=True)
    assert not o.any()
    assert (lse == math.inf).all()


def test_sinks_and_no_gradient() -> None:
    q, k, v = made(1, 1, 4, 8).requires_grad_(), made(1, 10, 2, 8), made(1, 10, 2, 8)
    sink = made(4)
    o = flash_attn_with_kvcache(q, k, v, cache_seqlens=7, learnable_sink=sink)
    close(o, flash_attn_func(q.detach(), k[:, :7], v[:, :7], learnable_sink=sink))
    assert not o.requires_grad


def test_more_entries_than_sequences() -> None:
    q, k, v = made(2, 1, 2, 8), made(5, 10, 2, 8), made(5, 10, 2, 8)
    close(flash_attn_with_kvcache(q, k, v), flash_attn_func(q, k[:2], v[:2]))
    index = torch.tensor([4, 1], dtype=INT)
    close(flash_attn_with_kvcache(q, k, v, cache_batch_idx=index), flash_attn_func(q, k[[4, 1]], v[[4, 1]]))


def test_left_padding_of_entries_in_another_order() -> None:
    q, k, v = made(2, 2, 2, 8), made(3, 10, 2, 8), made(3, 10, 2, 8)
    rest = {
        "cache_seqlens": torch.tensor([10, 6], dtype=INT),
        "cache_leftpad": torch.tensor([3, 2], dtype=INT),
    }
    found = flash_attn_with_kvcache(
        q, k, v, cache_batch_idx=torch.tensor([2, 0], dtype=INT), causal=True, **rest
    )
    close(found[:1], flash_attn_func(q[:1], k[2:, 3:], v[2:, 3:], causal=True))
    close(found[1:], flash_attn_func(q[1:], k[:1, 2:6], v[:1, 2:6], causal=True))


Q, CACHE, NEW = made(2, 1, 2, 16), made(2, 8, 2, 16), made(2, 1, 2, 16)
POOL = made(4, 256, 2, 16)
TABLE = torch.zeros(2, 1, dtype=INT)
ANGLES = made(8, 8)
LENGTHS = torch.tensor([3, 8], dtype=INT)
REFUSED = {
    "no room": ({"k": NEW, "v": NEW, "cache_seqlens": LENGTHS}, "room for 8"),
    "k without v": ({"k": NEW, "cache_seqlens": 0}, "k needs v"),
    "k without lengths": ({"k": NEW, "v": NEW}, "k needs cache_seqlens"),
    "rotary without k": ({"rotary_cos": ANGLES, "rotary_sin": ANGLES}, "rotary_cos needs k"),
    "cos without sin": ({"k": NEW, "v": NEW, "cache_seqlens": 0, "rotary_cos": ANGLES}, "needs rotary_sin"),
    "few angles": (
        {"k": NEW, "v": NEW, "cache_seqlens": 0, "rotary_cos": ANGLES[:7], "rotary_sin": ANGLES[:7]},
        "8 rows",
    ),
    "angles of another dtype": (
        {"k": NEW, "v": NEW, "cache_seqlens": 0, "rotary_cos": ANGLES.float(), "rotary_sin": ANGLES.float()},
        "q's dtype",
    ),
    "odd rotary_dim": (
        {"k": NEW, "v": NEW, "cache_seqlens": 0, "rotary_cos": ANGLES[:, :4], "rotary_sin": ANGLES[:, :4]},
        "multiple of 16",
    ),
    "new of another shape": ({"k": NEW[..., :4], "v": NEW, "cache_seqlens": 0}, "as k_cache"),
    "lengths of int64": ({"cache_seqlens": LENGTHS.long()}, "int32"),
    "lengths beyond": ({"cache_seqlens": 9}, "from 0 to 8"),
    "entries beyond": ({"cache_batch_idx": torch.tensor([0, 2], dtype=INT)}, "from 0 to 1"),
    "pages of 8": ({"block_table": TABLE}, "multiple of 256"),
}


@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refused_and_unchanged(given: dict[str, Any], words: str) -> None:
    before = CACHE.clone()
    with pytest.raises(AttentionError, match=words):
        flash_attn_with_kvcache(Q, CACHE, CACHE, **given)
    assert torch.equal(CACHE, before)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cache_leftpad": LENGTHS}, "cache_leftpad does not go"),
        ({"cache_batch_idx": LENGTHS}, "cache_batch_idx does not go"),
        ({"block_table": torch.tensor([[0], [4]], dtype=INT)}, "pages from 0 to 3"),
    ],
)
def test_refused_with_pages(given: dict[str, Any], words: str) -> None:
    with pytest.raises(AttentionError, match=words):
        flash_attn_with_kvcache(Q, POOL, POOL, **{"block_table": TABLE, "cache_seqlens": 5} | given)


WRONG_LATER = {
    "slopes": {"alibi_slopes": torch.rand(3)},
    "scale": {"softmax_scale": float("nan")},
    "sink": {"learnable_sink": torch.zeros(5)},
}


@pytest.mark.parametrize("given", WRONG_LATER.values(), ids=list(WRONG_LATER))
def test_what_attention_refuses_leaves_the_cache_unchanged(given: dict[str, Any]) -> None:
    caches = [CACHE.clone(), CACHE.clone()]
    with pytest.raises(AttentionError):
        flash_attn_with_kvcache(Q, *caches, NEW, NEW, cache_seqlens=3, **given)
    assert torch.equal(caches[0], CACHE)
    assert torch.equal(caches[1], CACHE)


def test_an_interrupted_call_leaves_the_cache_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = [CACHE.clone(), CACHE.clone()]
    seen = []

    def interrupted(q: Any, k: Any, *_: Any, **__: Any) -> None:
        seen.append(not torch.equal(k.transpose(1, 2), CACHE))  # the new keys are there by now
        raise KeyboardInterrupt

    monkeypatch.setattr("flashbench.integrations.flash_attn.kv_cache.attend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flash_attn_with_kvcache(Q, *caches, NEW, NEW, cache_seqlens=3)
    assert seen == [True]
    assert torch.equal(caches[0], CACHE)
    assert torch.equal(caches[1], CACHE)


@pytest.mark.parametrize("page", [-1, 4])
def test_new_keys_go_to_no_other_sequences_page(page: int) -> None:
    pool, table = POOL.clone(), torch.tensor([[0], [page]], dtype=INT)
    with pytest.raises(AttentionError, match="pages from 0 to 3"):
        flash_attn_with_kvcache(Q, pool, pool, NEW, NEW, cache_seqlens=5, block_table=table)
    assert torch.equal(pool, POOL)


def test_a_cache_smaller_than_the_batch_is_refused() -> None:
    with pytest.raises(AttentionError, match="entry for each"):
        flash_attn_with_kvcache(Q, CACHE[:1], CACHE[:1])
