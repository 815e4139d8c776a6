"""How nearly tiny random models of Hugging Face's transformers agree with their eager attention.

It takes seconds, and the machine need not be quiet:

    python benchmarks/models.py

Logits and gradients: the largest |difference| from eager attention, and after "of" the largest value itself.
In float64 the norms and rotations of models stay in float64, which models would otherwise compute in float32.
"noticed": how much the float64 logits change if queries are larger by 1e-4, which shows that the comparison
is sensitive. Tokens: how many tokens of greedy decoding are equal, with a dynamic and a static cache, from a
full and a left-padded batch. Computed: the share of all these calls of attention that flashbench computed.

The second table is in bfloat16 and float16: the largest error of eager attention and of ours, against the
same weights and inputs in float64, and the ratio of the two. Tokens: how many of the greedy choices, given
the same text so far, float64 makes too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from flashbench.integrations.huggingface import register, reset_stats, stats

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the models are those that the tests compare
from helpers.huggingface_halves import Half, decode, errors_of, half_model
from helpers.huggingface_models import CASES, LEFT, Case, Computed, compute, default_dtype
from helpers.torch_halves import HALVES

NEW_TOKENS = 24
NAME = "fb_numba"


def register_off(name: str) -> None:
    """An attention that is wrong by a little."""
    ours = transformers.AttentionInterface()[NAME]

    def off(module: Any, q: Any, k: Any, v: Any, mask: Any, **rest: Any) -> Any:
        return ours(module, q * 1.0001, k, v, mask, **rest)

    transformers.AttentionInterface.register(name, off)
    transformers.AttentionMaskInterface.register(name, transformers.AttentionMaskInterface()[NAME])


def differences(a: Computed, b: Computed) -> str:
    """Largest differences of logits and of gradients, as two cells."""
    assert a.gradients.keys() == b.gradients.keys()
    names = list(a.gradients)
    pairs = [([a.logits], [b.logits]), tuple([x.gradients[name] for name in names] for x in (a, b))]
    cells = []
    for theirs, ours in pairs:
        apart = max(float((x - y).abs().max()) for x, y in zip(theirs, ours, strict=True))
        cells.append(f"{apart:.1e} of {max(float(x.abs().max()) for x in theirs):.2g}")
    return " | ".join(cells)


def tokens(case: Case) -> str:
    """How many tokens equal those of eager attention, and out of how many."""
    if not case.generates:
        return ""
    with default_dtype(torch.float32):
        model, inputs = case.model(), case.inputs()
    equal = total = 0
    for cache in ("dynamic", "static"):
        for mask in (None, LEFT):
            found = []
            for attention in ("eager", NAME):
                model.set_attn_implementation(attention)
                given = inputs if mask is None else {**inputs, "attention_mask": mask}
                found.append(
                    model.generate(
                        **given, max_new_tokens=NEW_TOKENS, do_sample=False, cache_implementation=cache
                    )[:, -NEW_TOKENS:]
                )
            equal += int((found[0] == found[1]).sum())
            total += found[0].numel()
    return f"{equal} of {total}"


def row(case: Case) -> str:
    """One line of the table."""
    cells, calls, computed = [], 0, 0
    for dtype in (torch.float64, torch.float32):
        with default_dtype(dtype):
            model, inputs = case.model(), case.inputs()
            eager = compute(model, "eager", case, inputs)
            reset_stats()
            cells.append(differences(eager, compute(model, NAME, case, inputs)))
            calls += 2 * case.attentions
            computed += stats().forwards + stats().backwards
            if dtype is torch.float64:
                off = compute(model, "off", case, inputs)
                cells[-1] += f" | {float((eager.logits - off.logits).abs().max()):.0e}"
    reset_stats()
    cells.append(tokens(case))
    if case.generates:
        calls += 4 * NEW_TOKENS * case.attentions
        computed += stats().forwards
    parameters = sum(p.numel() for p in model.parameters())
    share = f"{computed / calls:.0%} of {calls}"
    return f"| {case.name} | {case.features} | {parameters} | " + " | ".join([*cells, share]) + " |"


def half_tokens(case: Case, half: Half, exact: Half) -> str:
    """How many greedy choices float64 makes too: of eager attention, of ours, and out of how many."""
    if not case.generates:
        return ""
    counts = []
    for attention in ("eager", NAME):
        steps = [
            decode(half, exact, attention, cache, mask, NEW_TOKENS)
            for cache in ("dynamic", "static")
            for mask in (torch.ones_like(LEFT), LEFT)
        ]
        counts.append(sum(int((step.exact.argmax(-1) == step.tokens).sum()) for step in steps))
    return f"{counts[0]}, {counts[1]} of {sum(step.tokens.numel() for step in steps)}"


def half_row(case: Case, dtype: torch.dtype) -> str:
    """One line of the table of half precision."""
    half = half_model(case, dtype)
    other = half.exactly()
    exact = compute(other.model, "eager", case, other.inputs)
    eager = errors_of(half, exact, "eager", case)
    reset_stats()
    ours = errors_of(half, exact, NAME, case)
    chosen = half_tokens(case, half, other)
    calls = case.attentions * (2 + 4 * NEW_TOKENS * case.generates)
    share = (stats().forwards + stats().backwards) / calls
    pairs = [f"{a:.1e} | {b:.1e} | {b / a:.2f}" for a, b in zip(eager, ours, strict=True)]
    name = str(dtype).removeprefix("torch.")
    return f"| {case.name} | {name} | {pairs[0]} | {pairs[1]} | {chosen} | {share:.0%} of {calls} |"


def main() -> None:
    """Compute, and print Markdown."""
    register(NAME)
    register_off("off")
    transformers.logging.set_verbosity_error()
    heads = ["model", "features", "parameters", "logits float64", "gradients", "noticed", "logits float32"]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}\n")
    print("| " + " | ".join([*heads, "gradients", "tokens", "computed"]) + " |")
    print("|" + "---|" * 10)
    for case in CASES:
        print(row(case))
    heads = ["model", "dtype", "logits, eager", "ours", "ratio", "gradients, eager", "ours", "ratio"]
    print("\n| " + " | ".join([*heads, "tokens: eager, ours", "computed"]) + " |")
    print("|" + "---|" * 10)
    for dtype in HALVES[::-1]:
        for case in CASES:
            print(half_row(case, dtype))


if __name__ == "__main__":
    main()
