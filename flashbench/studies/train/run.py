"""Runs a training study and makes its results, even if arms fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flashbench.results.record import Results
from flashbench.studies.arms import Workers, run_arms
from flashbench.studies.nothing import nothing_to_measure
from flashbench.studies.progress import Progress
from flashbench.studies.train import workload
from flashbench.studies.train.agreement import disagreement
from flashbench.studies.train.obstacles import Obstacles
from flashbench.studies.train.row import TrainRow
from flashbench.studies.train.study import TrainStudy
from flashbench.system.cores import available_cores

_MODULES = (workload.__name__, "flashbench.integrations.forecasting.blocks")


def run(
    study: TrainStudy,
    *,
    command: Sequence[str],
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_results: Callable[[Results], None] = lambda _: None,
    earlier: Results | None = None,
) -> Results:
    """Measure every point of the study. A failed point becomes a row with its reason.

    on_results: gets all results so far after each step.
    earlier: the results of an unfinished run, from which this run continues.

    Raises ResultsError if `earlier` is from another study or machine, EngineError if packages that the models
    need are missing, ConfigError for a bad CSV file, NothingToMeasureError if no point can be trained, and
    Interrupted on Ctrl-C, with the results so far.
    """
    threads = study.threads or available_cores()
    return run_arms(
        study,
        _rows(study, threads),
        Workers(workload.FACTORY, lambda point: workload.arguments(point, study), _MODULES),
        _compare_losses,
        records="training",
        threads=threads,
        command=command,
        on_progress=on_progress,
        on_results=on_results,
        earlier=earlier,
    )


def _rows(study: TrainStudy, threads: int) -> list[TrainRow]:
    # This import does not load PyTorch. Only the workers load it.
    from flashbench.integrations.forecasting.models import find_model

    obstacles = Obstacles(study)
    rows = []
    for point in study.points():
        model = find_model(point.model)
        variant = None if model.exact or point.attention == "original" else study.variant
        row = TrainRow(
            point=point,
            label=model.label(variant),
            windows=study.windows,
            threads=threads,
            dtype=study.dtype,
        )
        if (reason := obstacles.of(point)) is not None:
            row.status, row.tried, row.reason = "unsupported", True, reason
        rows.append(row)
    if not any(row.can_run for row in rows):
        raise nothing_to_measure((row.label, row.reason) for row in rows)
    return rows


def _compare_losses(arms: Sequence[TrainRow]) -> None:
    """Compare each arm's losses with those of the first arm that trained. An arm that differs is wrong.

    Losses that are NaN differ from themselves, so the first arm is compared too.
    """
    trained = [row for row in arms if row.can_run and row.checks]
    for row in trained:
        found = disagreement(row.checks[-1]["losses"], trained[0].checks[-1]["losses"], row.dtype)
        if found is not None:
            row.status, row.reason = "wrong", found
