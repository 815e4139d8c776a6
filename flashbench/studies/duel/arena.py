"""Where duels are fought: rounds of fresh processes, a pair a round, and looks between them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from flashbench.errors import EngineError
from flashbench.measure.pool import WorkerPool
from flashbench.measure.statistics import holm
from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.results.record import Process, Side
from flashbench.studies import workload
from flashbench.studies.bursts import time_row
from flashbench.studies.checking import check_row
from flashbench.studies.duel.match import Match, Order
from flashbench.studies.duel.settings import SIDES, DuelStudy
from flashbench.studies.rows import Row
from flashbench.studies.session import Progress


class Arena:
    """The state of one duel."""

    def __init__(self, duel: DuelStudy, threads: int, on_progress: Callable[[Progress], None]) -> None:
        """Nothing is started yet."""
        self._duel = duel
        self._on_progress = on_progress
        self.matches = [
            Match(point._replace(settings=point.settings._replace(num_threads=threads)), duel, str(place))
            for place, point in enumerate(duel.points())
        ]
        self.processes: dict[str, Process] = {}
        self._pythons = {"a": duel.a.python, "b": duel.b.python}
        self._pool = WorkerPool(threads, timeout_s=duel.study.timeout_s, pythons=self._pythons)
        # Of the system's own chance: an order that a seed gives again would give its accidents again.
        self._random = random.SystemRandom()

    def fight(self, *, to_the_end: bool = False) -> None:
        """Rounds and looks until every match is decided; `to_the_end`: until the last look in any case.

        Raises EngineError when an environment cannot serve.
        """
        rounds, looks = self._duel.rounds_per_look, self._duel.looks
        with self._pool:
            self._meet()
            started = time.monotonic()
            for look in range(looks):
                for number, order in enumerate(self._orders(rounds)):
                    playing = [match for match in self.matches if match.is_open]
                    if not playing:
                        return
                    done = look * rounds + number
                    left_s = done and (time.monotonic() - started) / done * (rounds * looks - done)
                    label = f"round {done + 1}, look {look + 1} of {looks}"
                    self._on_progress(Progress(done, rounds * looks, label, left_s or None))
                    self._round(order, playing)
                if look + 1 == looks or not to_the_end:
                    for match, p in zip(self.matches, self.p_holm(), strict=True):
                        if match.is_open:
                            match.look(p)

    def p_holm(self) -> list[float]:
        """Sign-flip p-values adjusted for how many matches there are."""
        return holm([match.p_value for match in self.matches])

    def _orders(self, rounds: int) -> Iterator[Order]:
        """Random, but of every two rounds A leads one: chance alone might let it lead nearly all."""
        pair: list[Order] = []
        for _ in range(rounds):
            if not pair:
                pair = ["ab", "ba"]
                self._random.shuffle(pair)
            yield pair.pop()

    def _meet(self) -> None:
        """Learn what each side runs with, before anything is measured."""
        for side in SIDES:
            python = self._pythons[side]
            try:
                with self._pool.turn(side) as worker:
                    worker.hello([workload.__name__])
                    self.processes[side] = msgspec.convert(worker.facts(), Process)
            except WorkerFailure as failure:
                raise EngineError(
                    f"{f'--python-{side} {python}' if python else 'this environment'} cannot serve a duel: "
                    f"{failure.reason}",
                    hint=f"{python} -m pip install flashbench" if python else None,
                ) from failure
            except OSError as error:
                raise EngineError(f"--python-{side} {python} cannot be started: {error.strerror}") from error

    def _round(self, order: Order, matches: Sequence[Match]) -> None:
        """One process a side: the leader's burst, two of the other, the leader's again."""
        self._pool.renew({side: [workload.__name__] for side in SIDES})
        leader, other = SIDES if order == "ab" else SIDES[::-1]
        for match in matches:
            self._both(match, self._prepare)
            for place, side in enumerate((leader, other, other, leader)):
                if match.both_ok:
                    self._time(match.rows[side], again=place >= 2)
            self._both(match, lambda row, worker: worker.release(row.slot))
            match.orders.append(order)

    def _both(self, match: Match, action: Callable[[Row, Worker], None]) -> None:
        """`action` for both sides at once, while nothing is timed; not for a side that has failed."""

        def act(side: Side) -> None:
            row = match.rows[side]
            if row.status == "ok":
                with row.keeping_failure(), self._pool.turn(side) as worker:
                    action(row, worker)

        with ThreadPoolExecutor(len(SIDES)) as threads:
            list(threads.map(act, SIDES))

    def _prepare(self, row: Row, worker: Worker) -> None:
        arguments = workload.arguments(row.point, self._duel.study.seed)
        row.describe(worker.prepare(row.slot, workload.FACTORY, arguments))
        if self._duel.study.check and row.accuracy is None:
            check_row(row, worker)

    def _time(self, row: Row, *, again: bool) -> None:
        assert row.side is not None
        with row.keeping_failure(), self._pool.turn(row.side) as worker:
            time_row(row, worker, self._duel.study, same_process=again)
