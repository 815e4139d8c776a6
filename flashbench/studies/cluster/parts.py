"""The parts of a study, and which results belong to a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from flashbench.results.record import Results
from flashbench.studies.infer import InferStudy
from flashbench.studies.study import Study
from flashbench.studies.train import TrainStudy

AnyStudy = Study | TrainStudy | InferStudy
STUDIES: Mapping[str, type[AnyStudy]] = {
    "profile": Study,
    "sweep": Study,
    "train": TrainStudy,
    "infer": InferStudy,
}


class Part(NamedTuple):
    """A study that one host measures."""

    name: str
    study: AnyStudy
    size: int = 0  # larger ones begin earlier, so that no host begins with the largest when others are done


def parts_of(study: AnyStudy, *, whole: bool = False) -> list[Part]:
    """One part for each length, or for each model; whole: the study as it is.

    Engines, blocks, dtypes, masks, directions and threads are compared with each other, and so are a model's
    lengths.
    """
    if whole:
        return [Part("the study", study)]
    if isinstance(study, Study):
        return [Part(f"N={length}", replace(study, seq_lens=[length]), length) for length in study.seq_lens]
    return [Part(model, replace(study, models=[model])) for model in study.models]


def is_of(results: Results, part: Part) -> bool:
    """Whether a task measured this part."""
    config = msgspec.to_builtins(part.study)
    return all(results.config.get(name) == config[name] for name in ("seq_lens", "models") if name in config)


def is_whole(results: Results, part: Part) -> bool:
    """Whether a task's results need no further rounds."""
    return results.complete and results.config.get("rounds", 0) >= part.study.rounds
