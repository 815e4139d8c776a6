"""One run: search, duel and keep, group by group, so that Ctrl-C loses little."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from time import monotonic

from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.tuned import Key, this_cpu
from flashbench.measure.cpu import NO_USE
from flashbench.measure.pool import WorkerPool
from flashbench.measure.timing import Burst
from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.studies import workload
from flashbench.studies.forecast import Forecast, Step
from flashbench.studies.progress import Progress
from flashbench.studies.tune.candidates import candidates
from flashbench.studies.tune.contest import LEAST_SPAN_S, MOST_PROCESSES, PROCESSES, Duel, fastest
from flashbench.studies.tune.keep import Outcome, Tuned, find_table, keep, make_writable
from flashbench.studies.tune.plan import Plan, longest_of, search_problem, seqlen_from

TIMEOUT_S = 600.0  # for one burst
WORKER = "tune"
MODULES = [workload.__name__]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run. `tuned` holds the finished keys, which are in the table."""

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        self.tuned = tuned


def tune(plan: Plan, *, on_progress: Callable[[Progress], None] = lambda _: None) -> Tuned:
    """Tune every key of the plan, and keep the wins in this CPU's table.

    Raises ResultsError before anything runs if the table cannot be written, and Interrupted on Ctrl-C.
    """
    path = find_table()
    make_writable(path)
    keys = plan.keys()
    course = _Course(keys, plan.threads, on_progress)
    use = _Use()
    outcomes: list[Outcome] = []

    def tuned() -> Tuned:
        return Tuned(
            path=str(path),
            cpu=this_cpu(),
            asked=len(keys),
            outcomes=outcomes,
            others_cores=use.total.others_cores,
        )

    try:
        with WorkerPool(plan.threads, timeout_s=TIMEOUT_S) as pool:
            for _, group in groupby(keys, key=lambda key: (key.dtype, key.head_dim, key.direction)):
                found = _tune_group(list(group), plan.threads, pool, course, use)
                keep(path, found)
                outcomes += found
    except KeyboardInterrupt:
        raise Interrupted(tuned()) from None
    course.report("done")
    return tuned()


def _tune_group(
    keys: Sequence[Key], threads: int, pool: WorkerPool, course: _Course, use: _Use
) -> list[Outcome]:
    """Run all searches of a group in one process, then all its duels in each of several fresh processes."""
    failures: dict[Key, str] = {}
    duels: dict[Key, Duel] = {}
    pool.renew({WORKER: MODULES})
    for key in keys:
        sizes = candidates(key, threads)
        with course.step("search", key, f"{len(sizes)} candidates"), _keeping(failures, key):
            problem = search_problem(key, threads)
            with pool.turn(WORKER) as worker:
                best = fastest(_Watched(worker, use), key, problem, sizes, threads)
            if best != sizes[0]:
                duels[key] = Duel(key, best, threads)
    for number in range(MOST_PROCESSES):
        left = [key for key, duel in duels.items() if key not in failures and duel.open_heads()]
        if number >= PROCESSES:
            left = [key for key in left if not duels[key].is_decided()]
            course.extend(left)
        course.narrow(keys, left)
        if left:
            pool.renew({WORKER: MODULES})
        for key in left:
            label = f"{_word(duels[key].blocks)} against built-in, process {number + 1}"
            with course.step("duel", key, label), _keeping(failures, key), pool.turn(WORKER) as worker:
                duels[key].fight(_Watched(worker, use), number)
    return [Outcome.of(key, threads, duels.get(key), failures.get(key)) for key in keys]


@contextmanager
def _keeping(failures: dict[Key, str], key: Key) -> Iterator[None]:
    """A worker's failure in the body becomes the key's failure."""
    try:
        yield
    except WorkerFailure as failure:
        failures[key] = failure.reason


def _word(blocks: Blocks) -> str:
    return f"{blocks.block_q} x {blocks.block_k}"


class _Use:
    """The use of the CPUs by this and other processes, during bursts that are long enough to measure it."""

    def __init__(self) -> None:
        self.total = NO_USE


class _Watched:
    """A worker as a timer. It adds its bursts' use of the CPUs to `use`."""

    def __init__(self, worker: Worker, use: _Use) -> None:
        self._worker = worker
        self._use = use
        self.prepare, self.release = worker.prepare, worker.release

    def time(self, slot: str, repeats: int, *, at_least_ns: int = 0, at_most: int = 50) -> Burst:
        """As `Worker.time`."""
        burst = self._worker.time(slot, repeats, at_least_ns=at_least_ns, at_most=at_most)
        if burst.cpu.wall_s >= LEAST_SPAN_S:
            self._use.total += burst.cpu
        return burst


class _Course:
    """The progress of a run, and a forecast of the time that is left."""

    def __init__(self, keys: Sequence[Key], threads: int, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._forecast = Forecast()
        self._left: dict[Step, int] = {}  # how often each step is still to run
        for key in keys:
            flops = search_problem(key, threads).flops(key.direction)
            self._left[Step("search", key, flops)] = 1
            self._left[Step("duel", key, flops)] = PROCESSES
        self._total = sum(self._left.values())

    @contextmanager
    def step(self, kind: str, key: Key, label: str) -> Iterator[None]:
        """Report the start of a step, and learn how long it takes."""
        causal = "causal" if key.causal else "full"
        lengths = f"{seqlen_from(key)} to {longest_of(key)}"
        self.report(f"{key.dtype} {key.direction} {causal}, {lengths}: {label}")
        start = monotonic()
        yield
        (step,) = (one for one in self._left if one.kind == kind and one.name == key)
        self._forecast.learn(step, monotonic() - start)
        self._left[step] -= 1

    def narrow(self, keys: Sequence[Key], left: Sequence[Key]) -> None:
        """Of these keys, only those in `left` have duels to come."""
        for step in self._left:
            if step.kind == "duel" and step.name in keys and step.name not in left:
                self._left[step] = 0

    def extend(self, keys: Sequence[Key]) -> None:
        """Add one more duel for each of these keys."""
        for step in self._left:
            if step.kind == "duel" and step.name in keys:
                self._left[step] += 1
                self._total += 1

    def report(self, label: str) -> None:
        """Report the progress."""
        rest = [step for step, times in self._left.items() for _ in range(times)]
        done = self._total - len(rest)
        self._on_progress(Progress(done, self._total, label, self._forecast.total(rest)))
