"""Language models with random weights: built-in sizes, or the config.json of a local folder or file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashbench.errors import ConfigError

_LLAMA = {"model_type": "llama", "vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072}
# Sizes of known models, so that nothing is downloaded. Attention costs the same with any weights.
BUILT_IN: Mapping[str, dict[str, Any]] = {
    "llama-160m": _LLAMA
    | {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    # As Qwen2.5-0.5B, without its biases.
    "llama-0.5b": _LLAMA
    | {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    # As Llama 3.2 1B.
    "llama-1b": _LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "mistral-160m": {
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "sliding_window": 1024,
        "max_position_embeddings": 131072,
    },
    "gpt-oss-160m": {
        "model_type": "gpt_oss",
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "sliding_window": 128,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
        "experts_implementation": "eager",
    },
}


def settings_of(model: str) -> dict[str, Any]:
    """The config of a model, as a config.json has it. Raises ConfigError for a name that is neither."""
    if model in BUILT_IN:
        return dict(BUILT_IN[model])
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"unknown model {model!r}: neither built in ({', '.join(BUILT_IN)}) nor a config.json or its "
            "folder"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ConfigError(f"{path} has no model_type, so it is no config of a model")
    return found
