"""The least change that can be told on this machine, measured by an engine's duel with itself, and kept."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec

from flashbench.codegen.compiled import cache_directory
from flashbench.errors import ConfigError, FlashbenchError, ResultsError
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.lock import exclusively
from flashbench.results.record import Record
from flashbench.results.store import check_writable, write_whole

VERSION = 1
DEFAULT_SEQLEN = 1024


class NoiseFloor(Record, frozen=True):
    """`floor` is a share: 0.02 says that a change of 2 % is no more than what equal engines show."""

    cpu: str
    threads: int
    problem: AttentionProblem
    engine: str
    direction: Direction
    floor: float
    rounds: int
    measured: str  # ISO 8601 with zone

    @property
    def about(self) -> tuple[object, ...]:
        """What it holds for: the time of day is in the machine, not in the engine."""
        return self.cpu, self.threads, self.problem, self.direction


class _Kept(Record, frozen=True):
    version: int
    floors: list[NoiseFloor]


def known_floor(cpu: str, threads: int, problem: AttentionProblem, direction: Direction) -> NoiseFloor | None:
    """The one measured of that problem; one of another would be too high for longer calls, and too low
    for shorter ones.
    """
    about = (cpu, threads, problem, direction)
    return next((floor for floor in _kept() if floor.about == about), None)


def machine_floor(cpu: str, threads: int) -> NoiseFloor | None:
    """The one that stands for the machine: of the problem that `duel --aa` takes when none is named."""
    return known_floor(cpu, threads, AttentionProblem.of(DEFAULT_SEQLEN), "fwd")


def keep_floor(floor: NoiseFloor) -> bool:
    """Keep it for later duels; it replaces one of the same problem. Those of others stay, also of a duel that
    keeps its own at the same time. Warns, and returns False, if it cannot: what was measured is right all the
    same.
    """
    try:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)  # first: a lock that can never be had would be waited for
        with exclusively(path):
            others = [other for other in _kept() if other.about != floor.about]
            write_whole(path, msgspec.json.encode(_Kept(version=VERSION, floors=[floor, *others])))
    except (OSError, ResultsError) as error:
        warnings.warn(
            f"the noise floor cannot be kept, and later duels will not know it: {error}; set "
            "FLASHBENCH_CACHE_DIR to a directory that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def check_floor(known: NoiseFloor, threshold: float) -> None:
    """Raise ConfigError when a threshold is below the floor."""
    if threshold >= known.floor:
        return
    length = known.problem.seqlen_q
    raise ConfigError(
        f"--threshold {100 * threshold:g}% is below this machine's noise floor of {100 * known.floor:.1f}% "
        f"(duel --aa at N={length}, {known.measured[:10]}): a change that small cannot be told here",
        hint=f"--threshold {100 * known.floor + 0.05:.1f}% or more; or, while nothing else runs, "
        f"flashbench duel {known.engine} --aa --seq-lens {length}",
    )


def _kept() -> list[NoiseFloor]:
    """None when the file is missing, damaged or of another version: a floor is soon measured again."""
    try:
        kept = msgspec.json.decode(_path().read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError, FlashbenchError):
        return []
    return kept.floors if kept.version == VERSION else []


def _path() -> Path:
    return cache_directory() / "noise-floor.json"
