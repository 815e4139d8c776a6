"""Runs a study of inference and makes its results, even if arms fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from flashbench.errors import EngineError
from flashbench.results.record import Results
from flashbench.studies.arms import Workers, run_arms
from flashbench.studies.infer import workload
from flashbench.studies.infer.agreement import disagreement
from flashbench.studies.infer.models import settings_of
from flashbench.studies.infer.row import InferRow
from flashbench.studies.infer.study import InferStudy
from flashbench.studies.progress import Progress
from flashbench.system.cores import available_cores

_MODULES = (workload.__name__, "flashbench.integrations.huggingface")


def run(
    study: InferStudy,
    *,
    command: Sequence[str],
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_results: Callable[[Results], None] = lambda _: None,
    earlier: Results | None = None,
) -> Results:
    """Measure every point of the study. A failed point becomes a row with its reason.

    on_results: gets all results so far after each step.
    earlier: the results of an unfinished run, from which this run continues.

    Raises ConfigError for a model that does not exist, EngineError if transformers is missing, ResultsError
    if `earlier` is from another study or machine, and Interrupted on Ctrl-C, with the results so far.
    """
    for model in study.models:
        settings_of(model)
    if find_spec("transformers") is None:
        raise EngineError("whole models need the package 'transformers'", hint="pip install 'flashbench[hf]'")
    threads = study.threads or available_cores()
    return run_arms(
        study,
        [InferRow(point=point, batch=study.batch, threads=threads) for point in study.points()],
        Workers(workload.FACTORY, lambda point: workload.arguments(point, study), _MODULES),
        _compare_tokens,
        records="inference",
        threads=threads,
        command=command,
        on_progress=on_progress,
        on_results=on_results,
        earlier=earlier,
    )


def _compare_tokens(arms: Sequence[InferRow]) -> None:
    """Compare each arm's tokens with those of the first arm. An arm that differs is wrong."""
    known = [row for row in arms if row.can_run and "compared_tokens" in row.facts]
    for row in known[1:]:
        first = known[0].facts
        found = disagreement(
            row.facts["compared_tokens"], first["compared_tokens"], first["compared_leads"], row.point.dtype
        )
        if found is not None:
            row.status, row.reason = "wrong", found
