"""How much faster is our `dot_product_attention` than JAX's own on a CPU? (extra `jax`)

python benchmarks/jax_speed.py --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flashbench.integrations.jax import dot_product_attention
from flashbench.measure.machine import describe_machine

HEADS, HEAD_DIM = 8, 64


def calls(attend: Any, causal: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward, and forward with gradients."""

    def output(q: Any, k: Any, v: Any) -> Any:
        return attend(q, k, v, is_causal=causal)

    def total(q: Any, k: Any, v: Any) -> Any:
        return output(q, k, v).astype(jnp.float32).sum()

    return jax.jit(output), jax.jit(jax.grad(total, (0, 1, 2)))


def ratio(seqlen: int, dtype: str, causal: bool, rounds: int) -> list[float]:
    """Times of JAX over ours, forward and with gradients, in turns."""
    inputs = [
        jax.random.normal(jax.random.key(i), (1, seqlen, HEADS, HEAD_DIM)).astype(dtype) for i in range(3)
    ]
    of_both = [calls(attend, causal) for attend in (jax.nn.dot_product_attention, dot_product_attention)]
    found = []
    for both in zip(*of_both, strict=True):
        times: list[list[float]] = [[], []]
        for _ in range(1 + rounds):
            for call, own in zip(both, times, strict=True):
                began = time.perf_counter()
                jax.block_until_ready(call(*inputs))
                own.append(time.perf_counter() - began)
        theirs, ours = (statistics.median(own[1:]) for own in times)
        found.append(theirs / ours)
    return found


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seq-lens", nargs="+", type=int, default=[128, 1024, 4096])
    asked = parser.parse_args()
    print(f"{describe_machine().cpu}, JAX {jax.__version__}, full / causal\n")
    print("dtype | tokens | forward | with gradients\n---|---|---|---")
    for dtype in ("float32", "bfloat16"):
        for seqlen in asked.seq_lens:
            full, causal = (ratio(seqlen, dtype, masked, asked.rounds) for masked in (False, True))
            pairs = (f"{a:.1f} / {b:.1f}" for a, b in zip(full, causal, strict=True))
            print(dtype, seqlen, *pairs, sep=" | ")


if __name__ == "__main__":
    main()
