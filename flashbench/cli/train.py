"""`flashbench train`: training steps of real models, end to end, with one attention after the other."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import groups, options
from flashbench.cli.groups import Output, Where, grouped

EPILOG = (
    "Examples:\n"
    "  flashbench train --models patchtst --context-lengths 512,1k,2k\n"
    "  flashbench train --data airpassengers --models tft,patchtst --context-lengths 48 --horizon 12\n"
    "  flashbench train --variant full-attention --save steps.json\n"
    "  flashbench train --variant full-attention --save steps.json --resume\n"
    "  flashbench train --models itransformer --series 2000 --attention flash,torch-flash,original\n"
    "  flashbench train --models patchtst --set patchtst.res_attention=false --data synthetic\n"
    "  flashbench train --config configs/training.toml\n"
    "  flashbench train --cluster local:2 --save steps.json\n\n"
    "Needs the extra models: pip install 'flashbench[models]'.\n\n"
    "Exit code: 0 measured; 1 a step crashed, ran out of memory or time, or its loss differs, or none was "
    "measured; 2 bad input, or nothing that can be measured."
)
_MODELS = "Models and data"


@grouped
def train(
    context: typer.Context,
    *,
    config: options.Config = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            "-m",
            metavar="NAME,...",
            help="tft, informer, autoformer, fedformer, patchtst, itransformer (default all).",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    attention: Annotated[
        list[str] | None,
        typer.Option(
            "--attention",
            "-a",
            metavar="NAME,...",
            help="standard, flash, torch-flash, torch-math, and original, a model's own code (default all "
            "but the last).",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            metavar="full-attention",
            help="Informer, Autoformer and FEDformer with softmax attention for their own: other models.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    context_lengths: Annotated[
        list[str] | None,
        typer.Option(
            "--context-lengths",
            "-n",
            metavar="N,...",
            help="Values that a model sees; 4k is 4096 (default 512,1024,2048).",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    horizon: Annotated[
        str | None,
        typer.Option(
            "--horizon", metavar="N", help="Values that it forecasts (default 24).", rich_help_panel=_MODELS
        ),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            "--windows", metavar="N", help="Windows of a step (default 4).", rich_help_panel=_MODELS
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="sf-temps (hourly, 8759 values), airpassengers (monthly, 144) or synthetic (any length) "
            "(default sf-temps).",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Your own: columns ds and y, and unique_id for several series.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            "--series",
            metavar="N",
            help="Synthetic series for iTransformer, whose tokens are series (default 1024).",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    patch_stride: Annotated[
        str | None,
        typer.Option(
            "--patch-stride",
            metavar="N",
            help="Values from one of PatchTST's tokens to the next (default 1).",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="MODEL.NAME=VALUE",
            help="A setting of a model's class, such as tft.hidden_size=64; give it again for more.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    autocast: Annotated[
        str | None,
        typer.Option(
            "--autocast",
            metavar="none|bfloat16",
            help="bfloat16: forward and loss under torch.autocast, weights in float32 (default none).",
            autocompletion=lambda: ["none", "bfloat16"],
            rich_help_panel=_MODELS,
        ),
    ] = None,
    threads: options.Threads = None,
    cpus: options.Cpus = None,
    repeats: Annotated[str | None, options.repeats("Steps in one burst", "3")] = None,
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
            help="Seconds for one burst of steps, one memory measurement or one check of losses, such as 60 "
            "(default 600).",
            rich_help_panel=options.MEASURING,
        ),
    ] = None,
    plot: Annotated[str | None, options.plot("steps and peak memory over the context length")] = None,
    show: options.Show = None,
    where: Annotated[Where, groups.CLUSTER],
    output: Annotated[Output, groups.OUTPUT],
) -> None:
    """Measure whole training steps of forecasting models, attention swapped: time, memory, share, losses."""
    # Inside: these import NumPy, which --help must not.
    from flashbench.cli.arms import run_or_show
    from flashbench.cli.train_settings import build_train_study
    from flashbench.report.train import train_report
    from flashbench.studies import train as study

    run_or_show(
        study,
        "train",
        build_train_study,
        train_report,
        given=context.params,
        command=context.obj,
        output=output,
        where=where,
        show=show,
        plot=plot,
    )
