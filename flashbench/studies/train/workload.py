"""The training step that a worker measures: one model, one context length, one attention."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns
from typing import Any, NamedTuple

import msgspec

from flashbench.errors import UnsupportedError
from flashbench.studies.train.data import check_length, load_series
from flashbench.studies.train.study import TrainPoint, TrainStudy

FACTORY = "flashbench.studies.train.workload:build"
# The losses of this many first steps are compared between arms.
COMPARED_LOSSES = 3
# Steps with marked attention, after the timed steps.
MARKED_STEPS = 2
# Values beyond one window, so that windows can be drawn from many starts. More would only use memory.
SPARE_VALUES = 512


class Phases(NamedTuple):
    """Nanoseconds of one step."""

    forward: int  # drawing the windows, the model, the loss
    backward: int
    optimizer: int


def arguments(point: TrainPoint, study: TrainStudy) -> dict[str, Any]:
    """The arguments with which `build` makes this point's workload in another process."""
    csv = None if study.csv is None else list(os.fsencode(study.csv))  # a file name may not be valid text
    return {"point": list(point), "study": msgspec.to_builtins(study), "csv": csv}


def build(point: list[Any], study: dict[str, Any], csv: list[int] | None) -> TrainingWorkload:
    """The workload of `arguments`. Raises UnsupportedError if its model or its windows do not exist."""
    read = msgspec.convert(study, TrainStudy)
    if csv is not None:
        read = msgspec.structs.replace(read, csv=os.fsdecode(bytes(csv)))
    return TrainingWorkload(TrainPoint(*point), read)


class TrainingWorkload:
    """Repeats neuralforecast's own training step, on windows drawn from seed and step number."""

    def __init__(self, point: TrainPoint, study: TrainStudy) -> None:
        import torch

        from flashbench.integrations.forecasting.home import import_neuralforecast
        from flashbench.integrations.forecasting.models import find_model

        import_neuralforecast()

        self._torch, self._point, self._study = torch, point, study
        self._model_kind = find_model(point.model)
        frame, self.series, self.data = self._frame()
        torch.manual_seed(study.seed)
        with _quiet():
            self._model = self._build()
            self._batch = next(self._batches(frame))
        self._model.log = _unlogged
        self._model.train()
        self._optimizer = self._model.configure_optimizers()["optimizer"]
        self._losses: list[float] = []
        self._phases: list[Phases] = []

    def call(self) -> None:
        """One step: zero_grad, windows, forward, loss, backward, optimizer."""
        step = len(self._losses)
        start = perf_counter_ns()
        # Seed by step number: random numbers that an attention draws do not change the next step's windows.
        self._torch.manual_seed(self._study.seed + step)
        self._optimizer.zero_grad()
        with self._torch.autocast("cpu", self._torch.bfloat16, enabled=self._study.autocast is not None):
            loss = self._model.training_step(self._batch, step)
        after_forward = perf_counter_ns()
        loss.backward()
        after_backward = perf_counter_ns()
        self._optimizer.step()
        end = perf_counter_ns()
        self._phases.append(
            Phases(after_forward - start, after_backward - after_forward, end - after_backward)
        )
        self._losses.append(float(loss.detach()))
        if not math.isfinite(self._losses[-1]):
            raise ArithmeticError(f"the loss is {self._losses[-1]} after {step} steps")

    def forget(self) -> None:
        """Free the gradients; the next step makes new ones."""
        self._optimizer.zero_grad()

    def describe(self) -> dict[str, Any]:
        """Sizes and names of the workload. output_bytes are the gradients, which stay until the next step."""
        parameters = list(self._model.parameters())
        return {
            "output_bytes": sum(x.grad.nbytes for x in parameters if x.grad is not None),
            "parameters": sum(x.numel() for x in parameters),
            "buffer_bytes": sum(x.nbytes for x in self._model.buffers()),
            "series": self.series,
            "data": self.data,
        }

    def check(self) -> dict[str, Any]:
        """Medians of the phases (without the first step), the first losses, and attention's share."""
        while len(self._losses) < COMPARED_LOSSES:
            self.call()
        timed = self._phases[1:]
        found: dict[str, Any] = {
            "losses": self._losses[:COMPARED_LOSSES],
            "forward_ns": median(phases.forward for phases in timed),
            "backward_ns": median(phases.backward for phases in timed),
            "optimizer_ns": median(phases.optimizer for phases in timed),
        }
        return found | self._share()

    def _share(self) -> dict[str, Any]:
        """Attention's share of extra steps, which are timed for nothing else."""
        from flashbench.integrations.torch import ATTENTIONS, reset_stats, stats
        from flashbench.integrations.torch.marks import attention_marked

        if self._point.attention not in ATTENTIONS:  # neuralforecast's own attention is not one function
            return {}
        before = len(self._phases)
        reset_stats()
        with attention_marked(ATTENTIONS, self._point.attention) as clock:
            for _ in range(MARKED_STEPS):
                self.call()
        steps_ns = sum(map(sum, self._phases[before:]))
        del self._phases[before:]
        return {
            "attention_forward_ns": clock.forward_ns / MARKED_STEPS,
            "attention_backward_ns": clock.backward_ns / MARKED_STEPS,
            "attention_share": (clock.forward_ns + clock.backward_ns) / steps_ns,
            "attention_calls": clock.calls // MARKED_STEPS,
            "attention_shape": list(clock.largest),
            "note": "; ".join(f"left to PyTorch: {reason}" for reason in stats().fallbacks) or None,
        }

    def _frame(self) -> tuple[Any, int, str]:
        """(series, number of series, name of the data)."""
        study, point = self._study, self._point
        window = point.context_length + study.horizon
        # In a multivariate model each series is a token, so attention needs many series.
        synthetic = study.csv is None and (study.data == "synthetic" or self._model_kind.multivariate)
        data = "synthetic" if synthetic else study.data
        series = study.series if self._model_kind.multivariate else 1
        length = window + study.windows + SPARE_VALUES
        frame = load_series(data, study.csv, series=series, length=length, seed=study.seed)
        name = study.csv or data
        check_length(frame, window, study.windows, name)
        return frame, int(frame["unique_id"].nunique()), name

    def _build(self) -> Any:
        from flashbench.integrations.forecasting import ORIGINAL, build_model
        from flashbench.studies.train.obstacles import unlike_its_variant

        study, point = self._study, self._point
        settings: dict[str, Any] = {
            "windows_batch_size": study.windows,
            "random_seed": study.seed + 1,
            "scaler_type": "identity",
            **study.settings.get(point.model, {}),
        }
        if point.model == "patchtst":
            settings.setdefault("stride", study.patch_stride)
        if (reason := unlike_its_variant(point, study)) is not None:
            raise UnsupportedError(reason)
        variant = None if self._model_kind.exact or point.attention == ORIGINAL else study.variant
        return build_model(
            point.model,
            h=study.horizon,
            input_size=point.context_length,
            attention=point.attention,
            variant=variant,
            n_series=self.series if self._model_kind.multivariate else None,
            dropout=0.0,
            **settings,
        )

    def _batches(self, frame: Any) -> Iterator[Any]:
        from neuralforecast.tsdataset import TimeSeriesDataset, TimeSeriesLoader

        dataset = TimeSeriesDataset.from_df(frame)[0]
        return iter(TimeSeriesLoader(dataset, batch_size=dataset.n_groups, shuffle=False))


def _unlogged(*arguments: Any, **named: Any) -> None:
    """Replaces Lightning's `log`, which needs a trainer."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning, which logs seeds and hardware when a model is made."""
    for name in ("lightning_fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
