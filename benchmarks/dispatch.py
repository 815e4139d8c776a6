"""What a call of attention on tensors costs beside the engine's own time, and from which length it pays.

It takes some minutes of a quiet machine:

    python benchmarks/dispatch.py --rounds 5

Microseconds. Each round starts a fresh process for each kind of call and takes the median over its calls. The
tables show the median of the rounds, and the first table the lowest too. The first table has one tiny head,
where nearly all is dispatch; the second has 8 heads of size 64 over lengths. Batch 1, not causal; --dtype is
float32 unless given.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from flashbench.measure.machine import describe_machine

LENGTHS = (32, 64, 128, 256, 512, 1024)
HEADS, HEAD_DIM, TINY = 8, 64, 16
# Rows of the first table; the last four are columns of the second.
CALLS = {
    "engine": "engine `flash` alone, forward",
    "library": "`flashbench.attention` on arrays",
    "operator": "the operator that compilers see, forward",
    "function": "`attention` on tensors, forward",
    "ours fwd": "`scaled_dot_product_attention`, forward",
    "torch fwd": "PyTorch's, forward",
    "ours fwd+bwd": "`scaled_dot_product_attention`, forward and backward",
    "torch fwd+bwd": "PyTorch's, forward and backward",
}
BURST_S, AT_LEAST = 0.5, 20


def call_of(kind: str, heads: int, seqlen: int, dtype: str) -> Callable[[], Any]:
    """What is timed. PyTorch is imported here because only the processes that time a call need it."""
    import torch

    import flashbench
    from flashbench.arguments import prepare
    from flashbench.integrations.torch import attention, ops, scaled_dot_product_attention
    from flashbench.integrations.torch.arrays import as_argument
    from flashbench.integrations.torch.functional import torch_sdpa
    from flashbench.integrations.torch.options import Options

    *tensors, do = (torch.randn(1, heads, seqlen, HEAD_DIM).to(getattr(torch, dtype)) for _ in range(4))
    arrays = [as_argument("q", x) for x in tensors]
    threads = torch.get_num_threads()
    if kind == "engine":
        return prepare("fwd", *arrays, num_threads=threads).forward
    if kind == "library":
        return functools.partial(flashbench.attention, *arrays, num_threads=threads)
    if kind == "operator":
        return functools.partial(ops.attention, *tensors, False, *Options())
    if kind == "function":
        return functools.partial(attention, *tensors)
    function = scaled_dot_product_attention if kind.startswith("ours") else torch_sdpa
    if not kind.endswith("bwd"):
        return functools.partial(function, *tensors)
    leaves = [x.requires_grad_() for x in tensors]
    return lambda: torch.autograd.grad(function(*leaves), leaves, do)


def time_here(kind: str, heads: int, seqlen: int, dtype: str) -> None:
    """Print the median over calls, in microseconds."""
    call = call_of(kind, heads, seqlen, dtype)
    for _ in range(AT_LEAST):
        call()
    samples: list[int] = []
    end = time.perf_counter() + BURST_S
    while len(samples) < AT_LEAST or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - start)
    print(json.dumps(statistics.median(samples) / 1000))


def measured(kinds: list[str], heads: int, seqlen: int, rounds: int, dtype: str) -> dict[str, list[float]]:
    """Microseconds of each kind of call, round by round; the kinds take turns."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            command = [sys.executable, __file__, "--dtype", dtype, "--here", kind, str(heads), str(seqlen)]
            found[kind].append(json.loads(subprocess.check_output(command)))
    return found


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=("bfloat16", "float16", "float32", "float64"))
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument(
        "--here", nargs=3, metavar=("KIND", "HEADS", "SEQLEN"), help="time one, and only that"
    )
    asked = parser.parse_args()
    if asked.here:
        kind, heads, seqlen = asked.here
        time_here(kind, int(heads), int(seqlen), asked.dtype)
        return
    print(f"head_dim {HEAD_DIM}, {asked.dtype}, {asked.rounds} rounds, {describe_machine().cpu}\n")
    print(f"| 1 head, {TINY} tokens | us | lowest |\n|---|---|---|")
    for kind, values in measured(list(CALLS), 1, TINY, asked.rounds, asked.dtype).items():
        print(f"| {CALLS[kind]} | {statistics.median(values):.0f} | {min(values):.0f} |")
    columns = list(CALLS)[-4:]
    print(f"\n| N, {HEADS} heads | " + " | ".join(columns) + " | fwd, PyTorch / ours | fwd+bwd |")
    print("|---|" + "---|" * (len(columns) + 2))
    for seqlen in asked.lengths:
        medians = [
            statistics.median(x) for x in measured(columns, HEADS, seqlen, asked.rounds, asked.dtype).values()
        ]
        ratios = (medians[1] / medians[0], medians[3] / medians[2])
        cells = [f"{x:.0f}" for x in medians] + [f"{x:.2f}" for x in ratios]
        print(f"| {seqlen} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
