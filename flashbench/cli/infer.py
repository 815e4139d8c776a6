"""`flashbench infer`: tokens a second of whole language models, with one attention after the other."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import groups, options
from flashbench.cli.groups import Output, Where, grouped

EPILOG = (
    "Examples:\n"
    "  flashbench infer -p 512,2k -n 32 -d 0,4k\n"
    "  flashbench infer --models llama-160m,mistral-160m --dtype float32,bfloat16\n"
    "  flashbench infer --models ./my-model/config.json --attention sdpa,flash -d 8k\n"
    "  flashbench infer --save tokens.json\n"
    "  flashbench infer --save tokens.json --resume\n"
    "  flashbench infer --cluster tcp://node0:8786 --each-node --save tokens.json\n\n"
    "Weights are random: nothing is downloaded, and attention costs the same with any weights. Needs the "
    "extra hf: pip install 'flashbench[hf]'.\n\n"
    "Exit code: 0 measured; 1 a test crashed, ran out of memory or time, or chose other tokens, or none was "
    "measured; 2 bad input, or nothing that can be measured."
)
_TESTS = "Models and tests"


@grouped
def infer(
    context: typer.Context,
    *,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            "-m",
            metavar="NAME,...",
            help="llama-160m, llama-0.5b, llama-1b, mistral-160m (windows), gpt-oss-160m (sinks), or a "
            "config.json or its folder (default llama-160m).",
            rich_help_panel=_TESTS,
        ),
    ] = None,
    attention: Annotated[
        list[str] | None,
        typer.Option(
            "--attention",
            "-a",
            metavar="NAME,...",
            help="sdpa and eager, of Transformers, and flash, ours (default all).",
            rich_help_panel=_TESTS,
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            metavar="NAME,...",
            help="Of weights and products: float32, bfloat16, float16 (default float32).",
            rich_help_panel=_TESTS,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="N,...|none",
            help="Prefill so many tokens, such as 512,2k (default 512).",
            rich_help_panel=_TESTS,
        ),
    ] = None,
    generate: Annotated[
        list[str] | None,
        typer.Option(
            "--generate",
            "-n",
            metavar="N,...|none",
            help="Decode so many tokens, one by one (default 32).",
            rich_help_panel=_TESTS,
        ),
    ] = None,
    depth: Annotated[
        list[str] | None,
        typer.Option(
            "--depth",
            "-d",
            metavar="N,...",
            help="Tokens that are in the cache before, such as 0,4k (default 0).",
            rich_help_panel=_TESTS,
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", "-b", metavar="N", help="Sequences (default 1).", rich_help_panel=_TESTS),
    ] = None,
    threads: options.Threads = None,
    cpus: options.Cpus = None,
    repeats: Annotated[str | None, options.repeats("Tests in one burst", "3")] = None,
    rounds: Annotated[
        str | None, options.rounds("2", "Fresh processes of each attention, which take turns")
    ] = None,
    seed: options.Seed = None,
    memory: options.MeasureMemory = None,
    memory_budget: options.MemoryBudget = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="S",
            help="Seconds for one burst of tests or one memory measurement, such as 60 (default 600).",
            rich_help_panel=options.MEASURING,
        ),
    ] = None,
    plot: Annotated[str | None, options.plot("tokens a second and peak memory over the depth")] = None,
    show: options.Show = None,
    where: Annotated[Where, groups.CLUSTER],
    output: Annotated[Output, groups.OUTPUT],
) -> None:
    """Measure tokens a second of whole language models by depth, attention swapped: time, memory, share."""
    # Inside: these import NumPy, which --help must not.
    from flashbench.cli.arms import run_or_show
    from flashbench.cli.infer_settings import build_infer_study
    from flashbench.report.infer import infer_report
    from flashbench.studies import infer as study

    run_or_show(
        study,
        "infer",
        build_infer_study,
        infer_report,
        given=context.params,
        command=context.obj,
        output=output,
        where=where,
        show=show,
        plot=plot,
    )
