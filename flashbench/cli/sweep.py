"""`flashbench sweep`: which block size is best at which length."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import groups, options
from flashbench.cli.groups import Given, Output, Where, grouped

EPILOG = (
    "Examples:\n"
    "  flashbench sweep\n"
    "  flashbench sweep --block-sizes 32,64,128,auto --seq-lens 1k,4k --causal yes --direction bwd\n"
    "  flashbench sweep --config configs/block-sizes.toml --save blocks.json\n"
    "  flashbench sweep --save blocks.json --resume\n"
    "  flashbench sweep --causal yes --window 256 --seq-lens 4k,8k\n"
    "  flashbench sweep --budget 60s\n"
    "  flashbench sweep --cluster slurm:jobs.yaml --save blocks.json\n\n"
    "Exit code: 0 measured; 1 a point crashed, ran out of memory or time, or was wrong, or none was "
    "measured; 2 bad input, or nothing that can be measured."
)


@grouped
def sweep(
    context: typer.Context,
    *,
    config: options.Config = None,
    problem: Annotated[
        Given,
        groups.problem("128,256,512,1024,2048,4096", causal="both").without("decode", "queries"),
    ],
    features: Annotated[Given, groups.FEATURES],
    engines: Annotated[Given, groups.engines("auto,16,32,64,128,256").without("block_q", "block_k")],
    measuring: Annotated[Given, groups.measuring("3")],
    where: Annotated[Where, groups.CLUSTER],
    output: Annotated[Output, groups.OUTPUT],
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
        output=output,
        where=where,
        report=lambda console, results: console.print(sweep_report(results)),
    )
