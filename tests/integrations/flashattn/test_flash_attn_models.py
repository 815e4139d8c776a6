"""Transformers' models with `flash_attention_2` on the CPU, and a model with code of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_models import CASES, LEFT, RIGHT, Case, apart, compute, default_dtype

from flashbench.integrations.torch import reset_stats, stats

NAME = "flash_attention_2"
# TimesFM and Informer do not have it. For GPT-OSS Transformers insists on kernels with sinks from its hub.
KNOWN = [case for case in CASES if case.name not in ("TimesFM", "Informer, full", "GPT-OSS")]
DECODERS = [case for case in KNOWN if case.generates]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@each_dtype
@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_logits_and_gradients(installed: None, case: Case, dtype: Any) -> None:
    with default_dtype(dtype):
        model, inputs = case.model(), case.inputs()
        eager = compute(model, "eager", case, inputs)
        reset_stats()
        flash = compute(model, NAME, case, inputs)
    assert apart(eager, flash) < TOLERANCE[dtype]
    assert stats().forwards == stats().backwards == case.attentions


@pytest.mark.parametrize("padding", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_padded_batches(installed: None, case: Case, padding: Any) -> None:
    with default_dtype(torch.float64):
        model, inputs = case.model(), {**case.inputs(), "attention_mask": padding}
        eager, flash = compute(model, "eager", case, inputs), compute(model, NAME, case, inputs)
    assert apart(eager, flash) < 1e-12


@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_the_same_tokens(installed: None, case: Case) -> None:
    model, inputs = case.model(), {**case.inputs(), "attention_mask": LEFT}
    found = []
    for name in ("eager", NAME):
        model.set_attn_implementation(name)
        found.append(model.generate(**inputs, max_new_tokens=8, do_sample=False))
    assert torch.equal(*found)


def test_bfloat16_from_the_constructor(installed: None) -> None:
    case = CASES[0]
    config = case.make().config
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=NAME, dtype=torch.bfloat16
    )
    reset_stats()
    assert model(**case.inputs()).logits.dtype is torch.bfloat16
    assert stats().forwards == case.attentions


def test_packed_sequences_by_their_positions(installed: None) -> None:
    case = CASES[0]
    with default_dtype(torch.float64):
        model = case.model()
    ids = torch.randint(1, 64, (1, 11))
    model.set_attn_implementation(NAME)
    together = model(input_ids=ids, position_ids=torch.tensor([[*range(4), *range(7)]])).logits
    alone = torch.cat([model(input_ids=part).logits for part in (ids[:, :4], ids[:, 4:])], 1)
    torch.testing.assert_close(together, alone)


def test_gone_after_uninstall() -> None:
    from flashbench.integrations.flash_attn import install, uninstall

    install()
    assert transformers.utils.is_flash_attn_2_available()
    assert transformers.utils.is_flash_attn_greater_or_equal("2.4.1")
    uninstall()
    assert not transformers.utils.is_flash_attn_2_available()
    with pytest.raises(ImportError):
        CASES[0].model().set_attn_implementation(NAME)


# As models on the Hub have it: flash_attn is imported where Transformers says that it is there.
OWN_CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

if is_flash_attn_2_available():
    from flash_attn import flash_attn_func, flash_attn_varlen_func
    from flash_attn.bert_padding import index_first_axis, pad_input, unpad_input
    from flash_attn.layers.rotary import apply_rotary_emb_func


class OwnConfig(PretrainedConfig):
    model_type = "own"

    def __init__(self, heads=4, head_dim=8, **rest):
        self.heads, self.head_dim = heads, head_dim
        super().__init__(**rest)


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.qkv = nn.Linear(16, 3 * config.heads * config.head_dim)
        self.post_init()

    def forward(self, x, mask=None):
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.config.heads, self.config.head_dim)
        angles = torch.outer(torch.arange(length).float(), torch.tensor([1.0, 0.1, 0.01, 0.001]))
        cos, sin = angles.cos(), angles.sin()
        q, k, v = qkv.unbind(2)
        q, k = (apply_rotary_emb_func(y, cos, sin) for y in (q, k))
        if mask is None:
            return flash_attn_func(q, k, v, 0.0, softmax_scale=None, causal=True)
        rows, indices, bounds, longest, *_ = unpad_input(torch.stack((q, k, v), 2), mask)
        o = flash_attn_varlen_func(
            *rows.unbind(1), cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=longest,
            max_seqlen_k=longest, causal=True,
        )
        return pad_input(o, indices, batch, length)
"""
CONFIG = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
USES_IT = """
import sys
from flashbench.integrations.flash_attn import install
install()
import torch, transformers
torch.manual_seed(0)
config = transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
model = transformers.AutoModel.from_config(config, trust_remote_code=True)
x = torch.randn(2, 9, 16)
mask = torch.ones(2, 9, dtype=torch.long)
mask[1, 6:] = 0
whole, padded = model(x), model(x, mask)
torch.testing.assert_close(whole[0], padded[0])
torch.testing.assert_close(whole[1, :6], padded[1, :6])
assert not padded[1, 6:].any()
q, k, v = model.qkv(x).view(2, 9, 3, 4, 8).unbind(2)
angles = torch.outer(torch.arange(9.0), torch.tensor([1.0, 0.1, 0.01, 0.001]))[:, None]
def turn(y):
    a, b = y.chunk(2, -1)
    return torch.cat((a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()), -1)
q, k, v = (y.transpose(1, 2) for y in (turn(q), turn(k), v))
sdpa = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
print((whole - sdpa).abs().max().item() < 1e-6)
"""


def test_a_model_with_code_of_its_own_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_CODE)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    done = subprocess.run(
        [sys.executable, "-c", USES_IT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
    )
    assert done.stdout == "True\n", done.stderr
