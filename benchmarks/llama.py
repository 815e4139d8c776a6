"""How long a small Llama of random weights takes, with PyTorch's attention and with flashbench's.

It takes some minutes of a quiet machine:

    python benchmarks/llama.py --dtype bfloat16 --lengths 1024 4096 --rounds 3

Prefill: one forward of a prompt. Decoding: one more token, with that prompt in a static cache. Milliseconds,
the median over rounds. Each round starts a fresh process for each attention, and takes the median of its
steps. "of attention": how much less the same step takes if attention returns zeros.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from flashbench.measure.machine import describe_machine

ATTENTIONS = ("sdpa", "fb_numba", "none")
MODEL = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
PREFILLS, TOKENS, SKIPPED = 3, 24, 4  # steps timed; the first tokens are not


def model_of(attention: str, dtype: str, length: int) -> Any:
    """transformers is imported here because only the processes that time a model need it."""
    import torch
    import transformers

    from flashbench.integrations.huggingface import register

    register()
    transformers.AttentionInterface.register(
        "none", lambda module, q, *_, **__: (torch.zeros_like(q).transpose(1, 2).contiguous(), None)
    )
    transformers.AttentionMaskInterface.register("none", lambda *_, **__: None)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**MODEL, max_position_embeddings=length + TOKENS)
    return transformers.LlamaForCausalLM._from_config(
        config, attn_implementation=attention, dtype=getattr(torch, dtype)
    ).eval()


def seconds(step: Callable[..., Any], text: Any) -> float:
    start = time.perf_counter()
    step(text)
    return time.perf_counter() - start


def time_here(attention: str, dtype: str, length: int) -> None:
    """Print medians in milliseconds, of prefill and of decoding, and the share of calls computed here."""
    import torch
    import transformers

    from flashbench.integrations.huggingface import stats

    model = model_of(attention, dtype, length)
    text = torch.randint(MODEL["vocab_size"], (1, length + TOKENS))
    prefills, tokens = [], []
    keyword = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    with torch.inference_mode():
        for _ in range(1 + PREFILLS):
            cache = transformers.StaticCache(config=model.config, max_cache_len=length + TOKENS)
            step = functools.partial(model, **{keyword: cache}, use_cache=True, logits_to_keep=1)
            prefills.append(seconds(step, text[:, :length]))
        for place in range(length, length + TOKENS):
            tokens.append(seconds(step, text[:, place : place + 1]))
    calls = (1 + PREFILLS + TOKENS) * MODEL["num_hidden_layers"]
    times = statistics.median(prefills[1:]), statistics.median(tokens[SKIPPED:])
    print(json.dumps([*(1000 * x for x in times), stats().forwards / calls]))


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--lengths", type=int, nargs="*", default=(1024, 4096))
    parser.add_argument("--here", choices=ATTENTIONS, help="time one, of the first length, and only that")
    asked = parser.parse_args()
    if asked.here:
        time_here(asked.here, asked.dtype, asked.lengths[0])
        return
    print(f"Llama, {MODEL}, {asked.dtype}, {asked.rounds} rounds, {describe_machine().cpu}\n")
    print("| tokens | step | sdpa, ms | of attention | ours, ms | of attention | sdpa / ours | computed |")
    print("|---|" + "---|" * 7)
    for length in asked.lengths:
        rounds: dict[str, list[list[float]]] = {attention: [] for attention in ATTENTIONS}
        for _ in range(asked.rounds):
            for attention, found in rounds.items():
                command = [sys.executable, __file__, "--here", attention, "--dtype", asked.dtype]
                found.append(json.loads(subprocess.check_output([*command, "--lengths", str(length)])))
        share = rounds["fb_numba"][0][2]
        for i, step in enumerate(("prefill", "decoding")):
            sdpa, ours, none = (statistics.median(x[i] for x in rounds[name]) for name in ATTENTIONS)
            cells = f"{sdpa:.1f} | {sdpa - none:.1f} | {ours:.1f} | {ours - none:.1f} | {sdpa / ours:.2f}"
            print(f"| {length} | {step} | {cells} | {share:.0%} |")


if __name__ == "__main__":
    main()
