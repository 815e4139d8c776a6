"""Runs a duel: rounds, each with a fresh pair of processes, and looks between them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from flashbench.analysis.sizes import size_word
from flashbench.errors import EngineError, ResultsError
from flashbench.measure.machine import available_memory_bytes
from flashbench.measure.pool import WorkerPool
from flashbench.measure.statistics import holm
from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.results.record import Process, Results, Side
from flashbench.studies import workload
from flashbench.studies.bursts import time_row
from flashbench.studies.checking import check_row
from flashbench.studies.duel import admission
from flashbench.studies.duel.match import Match, Order
from flashbench.studies.duel.settings import SIDES, DuelStudy
from flashbench.studies.nothing import nothing_to_measure
from flashbench.studies.progress import Progress
from flashbench.studies.rows import Row

SIDE_ORDERS: tuple[Order, Order] = ("ab", "ba")


class Arena:
    """The state of one duel."""

    def __init__(
        self,
        duel: DuelStudy,
        threads: int,
        on_progress: Callable[[Progress], None],
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts no process. `on_round` is called after each round, while no worker runs."""
        self._duel = duel
        self._on_progress, self._on_round = on_progress, on_round
        self._earlier: Results | None = None
        self.matches = [
            Match(point._replace(settings=point.settings._replace(num_threads=threads)), duel, str(place))
            for place, point in enumerate(duel.points())
        ]
        self.processes: dict[str, Process] = {}
        self._needed_bytes: dict[Side, Sequence[int]] = {}  # bytes per match, for sides that could be asked
        self._pythons = {"a": duel.a.python, "b": duel.b.python}
        self._pool = WorkerPool(threads, timeout_s=duel.study.timeout_s, pythons=self._pythons)
        # The system's randomness: a seed would repeat an order, and its accidents with it.
        self._random = random.SystemRandom()

    def fight(self, *, to_the_end: bool = False) -> None:
        """Run rounds and looks until every match is decided. to_the_end: run until the last look in any case.

        Raises EngineError if an environment cannot serve, or its engine is unknown or does not load there,
        and NothingToMeasureError if every match has a side that cannot run.
        """
        rounds, looks = self._duel.rounds_per_look, self._duel.looks
        with self._pool:
            self._meet()
            for side in SIDES:
                self._admit(side)
            self._leave_out_what_is_too_large()
            self._check_that_some_can_run()
            started, played = time.monotonic(), 0
            for look in range(looks):
                before = max((match.orders for match in self.matches), key=len)[look * rounds :]
                for number, order in enumerate(self._orders(rounds, before)):
                    done = look * rounds + number
                    # A match from an earlier run already has some of the rounds.
                    playing = [match for match in self.matches if match.is_open and len(match.orders) <= done]
                    if not playing:
                        continue
                    left_s = played and (time.monotonic() - started) / played * (rounds * looks - done)
                    label = f"round {done + 1}, look {look + 1} of {looks}"
                    self._on_progress(Progress(done, rounds * looks, label, left_s or None))
                    self._round(order, playing)
                    played += 1
                    self._on_round()
                if look + 1 == looks or not to_the_end:
                    for match, p in zip(self.matches, self.p_holm(), strict=True):
                        if match.is_open and match.looks <= look:
                            match.look(p)
                    self._on_round()

    def restore(self, earlier: Results) -> None:
        """Continue from the rounds of an unfinished run."""
        self._earlier = earlier
        for duel in earlier.duels:
            sides = [earlier.measurements[place] for place in (duel.a, duel.b)]
            for match in self.matches:
                if match.is_of(sides[0]):
                    match.restore(duel, sides)

    def p_holm(self) -> list[float]:
        """Sign-flip p-values, adjusted for the number of matches."""
        return holm([match.p_value for match in self.matches])

    def _orders(self, rounds: int, before: Sequence[Order] = ()) -> list[Order]:
        """Random orders in which A leads one of every two rounds: by pure chance it might lead nearly all.

        before: the orders of an earlier run's rounds.
        """
        orders = list(before[:rounds])
        while len(orders) < rounds:
            if len(orders) % 2:
                orders.append("ba" if orders[-1] == "ab" else "ab")
            else:
                orders.append(self._random.choice(SIDE_ORDERS))
        return orders

    def _meet(self) -> None:
        """Learn each side's versions and libraries, before anything is measured."""
        for side in SIDES:
            python = self._pythons[side]
            try:
                with self._pool.turn(side) as worker:
                    worker.hello([workload.__name__])
                    self.processes[side] = msgspec.convert(worker.facts(), Process)
                self._check_that_it_is_the_same(side)
            except WorkerFailure as failure:
                raise EngineError(
                    f"{f'--python-{side} {python}' if python else 'this environment'} cannot serve a duel: "
                    f"{failure.reason}",
                    hint=f"{python} -m pip install flashbench" if python else None,
                ) from failure
            except OSError as error:
                raise EngineError(f"--python-{side} {python} cannot be started: {error.strerror}") from error

    def _check_that_it_is_the_same(self, side: Side) -> None:
        """Raise ResultsError if the earlier rounds were of other versions: they belong to another duel."""
        before = None if self._earlier is None else self._earlier.processes.get(side)
        for name in ("flashbench_version", "python_version", "libraries"):
            old, new = (getattr(process, name, None) for process in (before, self.processes[side]))
            if before is not None and old != new:
                raise ResultsError(
                    f"the unfinished run is of another environment: {name} of side {side.upper()} was "
                    f"{old!r}, now it is {new!r}",
                    hint="name another file",
                )

    def _check_that_some_can_run(self) -> None:
        """Raise NothingToMeasureError if every match has a side that cannot run."""
        obstacles = [
            [row for row in match.rows.values() if row.status in ("unsupported", "too_large")]
            for match in self.matches
        ]
        if all(obstacles):
            raise nothing_to_measure((row.point.engine, row.reason) for rows in obstacles for row in rows)

    def _admit(self, side: Side) -> None:
        """Ask the side's engine, in its environment, before any call. Raises EngineError."""
        python = self._pythons[side]
        where = f"--python-{side} {python}: " if python else ""
        rows = [match.rows[side] for match in self.matches]
        engine = rows[0].point.engine
        with self._pool.turn(side) as worker:
            try:
                worker.hello([admission.__name__])
            except WorkerFailure:  # an older flashbench without admission: its first calls will show
                return
        asked = admission.arguments([row.point for row in rows], engine)
        with self._pool.turn(side) as worker:
            try:
                answer = worker.prepare(
                    "admission", admission.FACTORY, asked, timeout_s=self._duel.load_timeout_s
                )
            except WorkerFailure as failure:
                raise EngineError(f"{where}engine {engine!r} is broken: {failure.reason}") from failure
        admitted = admission.Admitted(**answer)
        if admitted.error is not None:
            raise EngineError(f"{where}{admitted.error}", hint=admitted.hint)
        self._needed_bytes[side] = admitted.needed_bytes
        for row, reason in zip(rows, admitted.refusals, strict=True):
            if reason is not None:
                row.status, row.reason = "unsupported", reason

    def _leave_out_what_is_too_large(self) -> None:
        """Leave out matches whose two sides together need more than the free memory: both run at once."""
        free = available_memory_bytes()
        if len(self._needed_bytes) < len(SIDES):
            return
        for match, needed in zip(self.matches, zip(*self._needed_bytes.values(), strict=True), strict=True):
            if match.both_ok and sum(needed) > free:
                larger = match.rows[max(zip(needed, self._needed_bytes, strict=True))[1]]
                larger.status = "too_large"
                larger.reason = (
                    f"both sides need {size_word(sum(needed))}, this machine has {size_word(free)} free: "
                    "predicted, not tried"
                )

    def _round(self, order: Order, matches: Sequence[Match]) -> None:
        """Time each match, in one process per side: a burst of the leader, two of the other, one more."""
        self._pool.renew({side: [workload.__name__] for side in SIDES})
        leader, other = SIDES if order == "ab" else SIDES[::-1]
        for match in matches:
            try:
                self._both(match, self._prepare)
                for place, side in enumerate((leader, other, other, leader)):
                    if match.both_ok:
                        self._time(match.rows[side], again=place >= 2)
                self._both(match, lambda row, worker: worker.release(row.slot))
            except BaseException:
                match.drop_unfinished_round()
                raise
            match.orders.append(order)

    def _both(self, match: Match, action: Callable[[Row, Worker], None]) -> None:
        """Run `action` for both sides at once, while nothing is timed. A side that failed is left out."""

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
