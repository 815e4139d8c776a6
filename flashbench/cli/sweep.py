"""`flashbench sweep`: which block size is best at which length."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import options

EPILOG = (
    "Examples:\n"
    "  flashbench sweep\n"
    "  flashbench sweep --block-sizes 32,64,128,auto --seq-lens 1k,4k --causal yes --direction bwd\n"
    "  flashbench sweep --config configs/block-sizes.toml --save blocks.json\n"
    "  flashbench sweep --save blocks.json --resume\n"
    "  flashbench sweep --causal yes --window 256 --seq-lens 4k,8k\n"
    "  flashbench sweep --budget 60s\n\n"
    "Exit code: 0 measured; 1 a point crashed, ran out of memory or time, or was wrong, or none was "
    "measured; 2 bad input, or nothing that can be measured."
)


def sweep(
    context: typer.Context,
    config: options.Config = None,
    seq_lens: Annotated[list[str] | None, options.seq_lens("128,256,512,1024,2048,4096")] = None,
    seq_len_k: options.SeqLenK = None,
    batch: options.Batch = None,
    heads: options.Heads = None,
    kv_heads: options.KvHeads = None,
    head_dim: options.HeadDim = None,
    dtype: options.Dtype = None,
    causal: Annotated[str | None, options.causal("both")] = None,
    causal_alignment: options.CausalAlignment = None,
    direction: options.Direction = None,
    window: options.Window = None,
    softcap: options.Softcap = None,
    alibi: options.Alibi = None,
    sinks: options.Sinks = None,
    mask: options.Mask = None,
    mask_axes: options.MaskAxes = None,
    mask_block: options.MaskBlock = None,
    dropout: options.Dropout = None,
    dropout_seed: options.DropoutSeed = None,
    key_lengths: options.KeyLengths = None,
    varlen: options.Varlen = None,
    page_size: options.PageSize = None,
    engine: options.Engine = None,
    block_sizes: Annotated[list[str] | None, options.block_sizes("auto,16,32,64,128,256")] = None,
    threads: options.Threads = None,
    repeats: options.Repeats = None,
    rounds: Annotated[str | None, options.rounds("3")] = None,
    budget: options.Budget = None,
    cold: options.Cold = None,
    seed: options.Seed = None,
    memory: options.MeasureMemory = None,
    check: options.Check = None,
    memory_budget: options.MemoryBudget = None,
    timeout: options.Timeout = None,
    json: options.Json = None,
    save: options.Save = None,
    resume: options.Resume = False,
) -> None:
    """Measure a grid of block sizes and lengths: a heatmap, and the best size beside the documented one."""
    # Inside: these import NumPy, which --help must not.
    from flashbench.cli.running import run_and_report
    from flashbench.cli.settings import build_study
    from flashbench.report.sweep import sweep_report

    study = build_study("sweep", context.params)
    run_and_report(
        study,
        command=context.obj,
        json=json,
        keep=save,
        resume=resume,
        report=lambda console, results: console.print(sweep_report(results)),
    )
