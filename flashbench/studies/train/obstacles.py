"""Reasons why a point cannot be trained that are known before any process runs."""

from __future__ import annotations

from flashbench.errors import UnsupportedError
from flashbench.integrations.forecasting import ORIGINAL, models
from flashbench.studies.train.data import KNOWN_VALUES, load_series, longest_series, shortage
from flashbench.studies.train.study import TrainPoint, TrainStudy


def unlike_its_variant(point: TrainPoint, study: TrainStudy) -> str | None:
    """Why a model's own attention is not an arm of this study of variants; None if it is."""
    if study.variant is None or point.attention != ORIGINAL or models.find_model(point.model).exact:
        return None
    return (
        f"attention {ORIGINAL} is the model as shipped, --variant {study.variant} another model: leave out "
        "one of them"
    )


class Obstacles:
    """The obstacles of one study's points."""

    def __init__(self, study: TrainStudy) -> None:
        """Raises EngineError if packages that the models need are missing, ConfigError for a bad CSV file.

        They are checked here, as in a worker they would fail every row.
        """
        models.check_installed(*(["vega_datasets"] if study.csv is None and study.data == "sf-temps" else []))
        self._study = study
        self._csv_values: int | None = None
        if study.csv is not None:
            frame = load_series(study.data, study.csv, series=1, length=1, seed=study.seed)
            self._csv_values = longest_series(frame)

    def of(self, point: TrainPoint) -> str | None:
        """Why the point cannot be trained, in one line; None if it can."""
        model = models.find_model(point.model)
        if (reason := unlike_its_variant(point, self._study)) is not None:
            return reason
        if not model.exact and point.attention != ORIGINAL and self._study.variant is None:
            return (
                f"{model.own_attention} instead of softmax attention; "
                "--variant full-attention puts it there: another model"
            )
        try:
            model.check_context(point.context_length)
        except UnsupportedError as error:
            return str(error)
        return self._shortage(point, synthetic_only=model.multivariate)

    def _shortage(self, point: TrainPoint, *, synthetic_only: bool) -> str | None:
        study = self._study
        window = point.context_length + study.horizon
        if self._csv_values is not None:
            return shortage(self._csv_values, window, study.windows, str(study.csv))
        known = None if synthetic_only else KNOWN_VALUES.get(study.data)
        return None if known is None else shortage(known, window, study.windows, study.data)
