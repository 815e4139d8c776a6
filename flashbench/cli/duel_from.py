"""`flashbench duel --from FILE`: judge two attentions of a file of whole models. Nothing is measured."""

from __future__ import annotations

import typer

from flashbench.analysis.arm_duel import duel_of_arms
from flashbench.analysis.whole_models import base_attention, model_rows
from flashbench.cli.groups import Output
from flashbench.cli.output import ResultFiles
from flashbench.cli.values import parse_share
from flashbench.errors import ConfigError, ResultsError
from flashbench.report.annotations import duel_annotations
from flashbench.report.duel import duel_report
from flashbench.report.github import report_to_github
from flashbench.report.markdown import results_markdown
from flashbench.results.store import load, one_host
from flashbench.studies.duel import exit_code

_FITS = ("a", "b", "from_", "threshold", "json", "save")  # the parameters that go with a file


def duel_from(path: str, context: typer.Context, output: Output) -> int:
    """Print the verdicts of a file and return the exit code.

    Raises ConfigError for an option that needs a measurement, ResultsError for a file without whole models.
    """
    given = given_with_file(context)
    results = one_host(load(path), path, "a duel pairs the rounds of one machine")
    rows = model_rows(results)
    if not rows or results.duels:
        raise ResultsError(
            f'{path} is of kind "{results.kind}", and --from takes a file of train or infer',
            hint="flashbench compare judges two files",
        )
    a = context.params["a"] if "a" in given else base_attention(rows[0])
    b = context.params["b"] or "flash"
    judged = duel_of_arms(results, a, b, parse_share("--threshold", context.params["threshold"]))
    files = ResultFiles(output)
    files.finish(judged)
    files.console.print(duel_report(judged))
    report_to_github(results_markdown(judged), duel_annotations(judged), out=files.console.file)
    return exit_code(judged)


def given_with_file(context: typer.Context) -> list[str]:
    """The parameters on the command line. Raises ConfigError for one that does not go with a file."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    # By name: Typer may have a Click of its own.
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if others := [name for name in given if name not in _FITS]:
        option = _spelled(context, others[0])
        raise ConfigError(
            f"{option} does not go with --from: {context.params['from_']} is measured already",
            hint=f"leave {option} out, or measure anew without --from",
        )
    return given


def _spelled(context: typer.Context, name: str) -> str:
    """The option of a parameter, as it is typed."""
    return next(max(each.opts, key=len) for each in context.command.params if each.name == name)
