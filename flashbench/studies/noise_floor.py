"""The smallest change that this machine can measure, from a duel of an engine with itself, kept in a file."""

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
    """floor: a share. 0.02 means that two runs of one engine may differ by 2 %."""

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
        """What it is valid for. The engine does not matter: noise comes from the machine."""
        return self.cpu, self.threads, self.problem, self.direction


class _Kept(Record, frozen=True):
    version: int
    floors: list[NoiseFloor]


def known_floor(cpu: str, threads: int, problem: AttentionProblem, direction: Direction) -> NoiseFloor | None:
    """The floor measured with that problem. Another problem's would be too high for longer calls and too low
    for shorter ones.
    """
    about = (cpu, threads, problem, direction)
    return next((floor for floor in _kept() if floor.about == about), None)


def machine_floor(cpu: str, threads: int) -> NoiseFloor | None:
    """The floor of the machine as a whole: that of the default problem of `duel --aa`."""
    return known_floor(cpu, threads, AttentionProblem.of(DEFAULT_SEQLEN), "fwd")


def keep_floor(floor: NoiseFloor) -> bool:
    """Keep the floor for later duels in place of an earlier one of the same problem. Floors of other problems
    stay, even if another duel writes at the same time. Warns and returns False if the file cannot be written:
    the measurement is still right.
    """
    try:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)  # first, because a lock in such a place would be waited for without end
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
    """Raises ConfigError if the threshold is below the floor."""
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
    """Empty if the file is missing, damaged or of another version: a floor is quickly measured again."""
    try:
        kept = msgspec.json.decode(_path().read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError, FlashbenchError):
        return []
    return kept.floors if kept.version == VERSION else []


def _path() -> Path:
    return cache_directory() / "noise-floor.json"
