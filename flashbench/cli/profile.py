"""`flashbench profile`: the documented table, measured."""

from __future__ import annotations

from typing import Annotated

import typer

from flashbench.cli import groups, options
from flashbench.cli.groups import Given, Output, Where, grouped

EPILOG = (
    "Examples:\n"
    "  flashbench profile\n"
    "  flashbench profile --plain\n"
    "  flashbench profile --seq-lens 512,4k --heads 8 --dtype float32 --causal --direction fwd,bwd\n"
    "  flashbench profile -e flash -e torch-flash --save mine.json\n"
    "  flashbench profile --batch 8 --memory-budget 16GiB\n"
    "  flashbench profile --predict --seq-lens 4k,64k,1024k --heads 8 --memory-budget 16GiB\n"
    "  flashbench profile -e flash --causal --window none --window 256 --softcap 50 --seq-lens 4k,16k\n"
    "  flashbench profile --varlen 0.25,0.5,1 --causal --direction fwd,bwd\n"
    "  flashbench profile --decode --batch 8 --page-size 16\n"
    "  flashbench profile --causal --plot chart.svg\n"
    "  flashbench profile -e flash --heads 8 --threads 1,2,4,8 --cpus 0-7\n"
    "  flashbench profile -e flash -e numpy --memory-detail\n"
    "  flashbench profile --config configs/speed.toml --json - > speed.json\n"
    "  flashbench profile --cluster tcp://node0:8786 --each-node --save nodes.json\n\n"
    "Exit code: 0 measured; 1 a point crashed, ran out of memory or time, or was wrong, or none was "
    "measured; 2 bad input, or nothing that can be measured."
)


@grouped
def profile(
    context: typer.Context,
    *,
    config: options.Config = None,
    problem: Annotated[Given, groups.problem("128,512,1024,2048,4096")],
    features: Annotated[Given, groups.FEATURES],
    engines: Annotated[Given, groups.engines(several_threads=True)],
    measuring: Annotated[Given, groups.measuring()],
    predict: Annotated[
        bool,
        typer.Option(
            "--predict",
            help="Compute what a forward and a training step need, and whether it fits in --memory-budget, "
            "or in what is free; measure nothing. The exit code is 0 either way.",
            rich_help_panel=options.MEASURING,
        ),
    ] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Print the documented layout to the letter.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    plot: Annotated[str | None, options.plot("time and memory over the lengths")] = None,
    memory_detail: Annotated[
        bool,
        typer.Option(
            "--memory-detail",
            help="Print memory three ways too: memray, resident, expected.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    where: Annotated[Where, groups.CLUSTER],
    output: Annotated[Output, groups.OUTPUT],
) -> None:
    """Measure time, peak memory and exactness over sequence lengths: the documented table."""
    # Inside: these import NumPy, which --help must not.
    from rich.console import Console

    from flashbench.cli.plotting import NO_CHART, check_plot, write_plot
    from flashbench.cli.predicting import predict_and_report
    from flashbench.cli.running import run_and_report
    from flashbench.cli.settings import build_study
    from flashbench.errors import ConfigError
    from flashbench.report.memory import memory_report
    from flashbench.report.plain import check_plain, plain_report
    from flashbench.report.profile import profile_report
    from flashbench.report.training import training_report
    from flashbench.results.record import Results
    from flashbench.studies.memory_fit.training import training_rows

    study = build_study("profile", context.params)
    if where.cluster is not None and (predict or plain):
        raise ConfigError(f"{'--predict' if predict else '--plain'} is of one machine: leave out --cluster")
    if predict:
        predict_and_report(study, context.params)
        return
    if plain:
        check_plain(study)
    if plot is not None:
        check_plot(plot, others=(output.json, output.save))
    if memory_detail and not study.memory:
        raise ConfigError("--memory-detail shows what --no-memory leaves out: give one of them")

    def report(console: Console, results: Results) -> None:
        # First: the command ends early if the reader of stdout goes away.
        drawn = plot is None or write_plot(plot, results)
        if plain:
            console.file.write(plain_report(results))  # not by the console, which wraps and strips lines
        else:
            console.print(profile_report(results))
        if memory_detail:
            console.print()
            console.print(memory_report(results))
        budget = study.memory_budget_bytes or results.machine.memory_bytes
        trains = not study.decode and (study.batch > 1 or study.memory_budget_bytes is not None)
        if trains and budget is not None:
            console.print()
            console.print(training_report(training_rows(study, budget), budget))
        if not drawn:
            console.print(NO_CHART)

    run_and_report(study, command=context.obj, output=output, where=where, report=report)
