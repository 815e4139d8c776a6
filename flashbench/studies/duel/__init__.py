"""A duel: B against A in randomly ordered rounds of fresh processes, until a look decides or the last look.

A round starts a fresh process for each side. It times both on every problem in the order A B B A or B A A B,
so that a steady drift within the round cancels. The medians of the two processes give one ln(B / A). A few
looks judge the rounds so far. The total error of 5 % is divided evenly among the looks (Bonferroni). That is
valid for any look that decides. With several problems, Holm's procedure adjusts the p-values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from flashbench.analysis.advice import run_warnings
from flashbench.analysis.movement import movement_warnings
from flashbench.analysis.verdict import verdicts_exit_code
from flashbench.errors import EngineError
from flashbench.measure.machine import describe_machine
from flashbench.results.record import Results
from flashbench.studies.duel.arena import Arena
from flashbench.studies.duel.settings import SIDES, Contestant, DuelStudy
from flashbench.studies.noise_floor import DEFAULT_SEQLEN, NoiseFloor, check_floor, keep_floor, known_floor
from flashbench.studies.progress import Progress
from flashbench.studies.resume import check_same_study
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.studies.runner import Interrupted
from flashbench.studies.study import Study
from flashbench.system.cores import available_cores

__all__ = ["Contestant", "DuelStudy", "exit_code", "fight", "floor_of", "measure_floor"]


def fight(
    duel: DuelStudy,
    *,
    command: Sequence[str],
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_results: Callable[[Results], None] = lambda _: None,
    earlier: Results | None = None,
    to_the_end: bool = False,
) -> Results:
    """Run a duel and return its results.

    on_results: gets all results so far after each round.
    earlier: the results of an unfinished duel, from which this one continues.
    to_the_end: run all rounds, even if an early look could decide.

    Raises ResultsError if `earlier` is from another duel, machine or environment, ConfigError if the
    threshold is below this machine's known noise floor, EngineError if a side cannot serve,
    NothingToMeasureError if every match has a side that cannot run, and Interrupted on Ctrl-C.
    """
    threads = duel.study.thread_counts[0] or available_cores()
    facts = describe_machine()
    if not to_the_end:  # such a duel measures the floor
        _check_thresholds(duel, facts.cpu, threads)
    record = RunRecord("duel", command, {**msgspec.to_builtins(duel), "threads": threads})
    machine = make_machine(facts, {}, threads)
    arena = Arena(duel, threads, on_progress, lambda: on_results(results(complete=False)))
    if earlier is not None:
        _check_same_duel(earlier, record.config, facts.cpu)
        arena.restore(earlier)

    def results(*, complete: bool) -> Results:
        matches = [match for match in arena.matches if match.orders or not match.both_ok]
        p_holm = dict(zip(arena.matches, arena.p_holm(), strict=True))
        measurements = [match.rows[side].measurement(None) for match in matches for side in SIDES]
        return record.results(
            machine,
            measurements=measurements,
            processes=arena.processes,
            duels=[match.record(2 * place, p_holm[match]) for place, match in enumerate(matches)],
            warnings=[*run_warnings(machine), *movement_warnings(measurements)],
            complete=complete,
        )

    try:
        arena.fight(to_the_end=to_the_end)
    except KeyboardInterrupt:
        raise Interrupted(results(complete=False)) from None
    return results(complete=True)


def _check_same_duel(earlier: Results, config: dict[str, Any], cpu: str) -> None:
    known = {"study": msgspec.to_builtins(Study()), **earlier.config}
    for side in SIDES:  # older files have no path
        known[side] = {"path": None, **known[side]}
    check_same_study(earlier, _flat(config), cpu, kind="duel", known_config=_flat(known))


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The study's settings and the duel's own. A resumed duel must keep them, its looks and threshold too."""
    own = {name: config.get(name) for name in ("a", "b", "threshold", "looks", "threads")}
    return {
        **msgspec.to_builtins(Study()),
        **config["study"],
        **own,
        "rounds between looks": config.get("rounds"),
    }


def exit_code(results: Results) -> int:
    """1: B is slower somewhere. Else 4: B failed. Else 3: no verdict, or only A failed. Else 0."""
    return verdicts_exit_code((duel.verdict, results.rows[duel.b]) for duel in results.duels)


def floor_of(results: Results) -> NoiseFloor:
    """This machine's noise floor, from a duel of an engine with itself.

    It is the smallest threshold with which the verdict would have been "same". Raises EngineError if the
    engine failed.
    """
    (duel,) = results.duels
    row = results.measurements[duel.a]
    if duel.low is None or duel.high is None or row.threads is None:
        failed = next(one for one in results.measurements if one.status != "ok")
        raise EngineError(f"no noise floor: {failed.engine} {failed.status}: {failed.reason}")
    return NoiseFloor(
        cpu=results.machine.cpu,
        threads=row.threads,
        problem=row.problem,
        engine=row.engine,
        direction=row.direction,
        floor=max(1 / duel.low, duel.high) - 1,
        rounds=len(duel.orders),
        measured=results.created,
    )


def measure_floor(
    *, threads: int | None = None, on_progress: Callable[[Progress], None] = lambda _: None
) -> float:
    """Measure this machine's noise floor by a duel of flash with itself, and keep it for later duels.

    Raises EngineError if it cannot be measured.
    """
    flash = Contestant(engine="flash")
    study = Study(engines=["flash"], seq_lens=[DEFAULT_SEQLEN], memory=False, threads=threads)
    results = fight(
        DuelStudy(a=flash, b=flash, study=study), command=[], on_progress=on_progress, to_the_end=True
    )
    floor = floor_of(results)
    keep_floor(floor)
    return floor.floor


def _check_thresholds(duel: DuelStudy, cpu: str, threads: int) -> None:
    for point in duel.points():
        known = known_floor(cpu, threads, point.problem, point.direction)
        if known is not None:
            check_floor(known, duel.threshold)
