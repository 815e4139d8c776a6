"""Models that are not in the table: logits equal those of eager attention, and we compute all attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_models import Case, default_dtype, float64_throughout

from flashbench.integrations.huggingface import reset_stats, stats

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **SPECIAL,
}
TWO_STACKS = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    **SPECIAL,
}
PADDING = torch.tensor([[1] * 11, [1] * 6 + [0] * 5])


def tokens(length: int) -> Any:
    return torch.randint(1, 64, (2, length))


def decoder() -> dict[str, Any]:
    return {"input_ids": tokens(11)}


def two_stacks() -> dict[str, Any]:
    return {"input_ids": tokens(11), "attention_mask": PADDING, "decoder_input_ids": tokens(7)}


def t5() -> Any:
    """A learned position bias, added to the scores."""
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**TWO_STACKS))


def whisper() -> Any:
    config = transformers.WhisperConfig(
        **TWO_STACKS, num_mel_bins=8, max_source_positions=20, max_target_positions=20,
        decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def modernbert() -> Any:
    """A window on both sides."""
    config = transformers.ModernBertConfig(**TEXT, local_attention=6, cls_token_id=1, sep_token_id=2)
    return transformers.ModernBertForMaskedLM(config)


def deepseek() -> Any:
    """head_dim_v is not head_dim."""
    config = transformers.DeepseekV3Config(
        **TEXT, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4,
        qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=2,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config)


def deepseek_sparse() -> Any:
    """Each query selects some keys, and the model passes their indices besides the mask."""
    if not hasattr(transformers, "DeepseekV32Config"):
        pytest.skip("a transformers without DeepSeek V3.2")
    config = transformers.DeepseekV32Config(
        **TEXT, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, n_group=1,
        qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=2, index_topk=4, index_n_heads=2,
        index_head_dim=16, n_routed_experts=4, num_experts_per_tok=2, topk_group=1,
    )  # fmt: skip
    return transformers.DeepseekV32ForCausalLM(config)


def llama4() -> Any:
    """Causal in chunks."""
    config = transformers.Llama4TextConfig(
        **TEXT, num_key_value_heads=2, head_dim=8, attention_chunk_size=4, intermediate_size_mlp=48,
        interleave_moe_layer_step=9,
    )  # fmt: skip
    return transformers.Llama4ForCausalLM(config)


def beit() -> Any:
    """A position bias without a mask."""
    sizes = {name: size for name, size in TEXT.items() if name.startswith(("hidden", "inter", "num"))}
    config = transformers.BeitConfig(**sizes, image_size=16, patch_size=4, use_relative_position_bias=True)
    return transformers.BeitForImageClassification(config)


MODELS: list[tuple[Callable[[], Any], Callable[[], dict[str, Any]], int]] = [
    (t5, two_stacks, 6),
    (bart, two_stacks, 6),
    (whisper, lambda: {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens(7)}, 6),
    (modernbert, lambda: {"input_ids": tokens(11), "attention_mask": PADDING}, 2),
    (deepseek, decoder, 2),
    (deepseek_sparse, decoder, 2),
    (llama4, decoder, 2),
    (beit, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)}, 2),
]


@pytest.mark.parametrize(("make", "inputs", "attentions"), MODELS, ids=[make.__name__ for make, *_ in MODELS])
def test_logits(make: Any, inputs: Any, attentions: int) -> None:
    logits = {}
    with default_dtype(torch.float64), torch.no_grad(), float64_throughout():
        model, given = Case("", "", make, inputs, attentions, "logits").model(), inputs()
        for attention in ("eager", "fb_numba"):
            model.set_attn_implementation(attention)
            reset_stats()
            logits[attention] = model(**given).logits
            if "decoder_input_ids" not in given and "attention_mask" in given:
                logits[attention] *= PADDING[..., None]
    assert stats() == (attentions, 0, {})
    torch.testing.assert_close(logits["fb_numba"], logits["eager"], rtol=1e-12, atol=1e-12)
