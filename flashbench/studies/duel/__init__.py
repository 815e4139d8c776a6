"""A duel: B against A in randomly ordered rounds of fresh processes, until it is decided or time to say so.

A round starts a fresh process a side and times both on every problem in the order A B B A or B A A B, so
that a steady drift within the round cancels; the median of each process gives one ln(B / A). The rounds are
judged at a few looks. The error allowed, 5 % in all, is shared among the looks evenly (Bonferroni), which
is valid however early a look decides; over several problems p-values are adjusted by Holm's procedure.
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
from flashbench.studies.resume import check_same_study
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.studies.runner import Interrupted
from flashbench.studies.session import Progress
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
    """Fight it out; `to_the_end` makes all rounds even when an early look could decide.

    `on_results` gets all that is known after each round; `earlier` is such a file, from which it goes on.

    Raises ResultsError when `earlier` is of another duel, machine or environment, ConfigError when the
    threshold is below the noise floor known of this machine, EngineError when a side cannot serve,
    NothingToMeasureError when every match has a side that cannot run, and Interrupted on Ctrl-C.
    """
    threads = duel.study.threads or available_cores()
    facts = describe_machine()
    if not to_the_end:  # which measures a floor
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
    check_same_study(earlier, _flat(config), cpu, kind="duel", known_config=_flat(known))


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The study's settings and the duel's own: how often it looks and what it allows must stay."""
    own = {name: config.get(name) for name in ("a", "b", "threshold", "looks", "threads")}
    return {
        **msgspec.to_builtins(Study()),
        **config["study"],
        **own,
        "rounds between looks": config.get("rounds"),
    }


def exit_code(results: Results) -> int:
    """1: B is slower somewhere; 4: nowhere, but B failed; 3: no verdict, or A alone failed; else 0."""
    return verdicts_exit_code((duel.verdict, results.measurements[duel.b]) for duel in results.duels)


def floor_of(results: Results) -> NoiseFloor:
    """What a duel of an engine with itself says of this machine: the smallest threshold at which it would
    have been called the same.

    Raises EngineError when the engine failed.
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
    """This machine's noise floor, by a duel of flash with itself, kept for later duels.

    Raises EngineError when it cannot be measured.
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
