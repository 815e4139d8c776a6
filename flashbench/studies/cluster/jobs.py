"""The parts of a study that are still to be measured, and what is known of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from msgspec.structs import replace

from flashbench.results.record import Results
from flashbench.studies.cluster.parts import Part, is_of, is_whole

MOST_LOSSES = 3


@dataclass(eq=False)
class Job:
    """A part on its way to a host. host: the only one that may measure it; None: any."""

    part: Part
    host: str | None = None
    lost: list[str] = field(default_factory=list)  # hosts whose worker was lost meanwhile

    @property
    def name(self) -> str:
        """In words for a user."""
        return self.part.name if self.host is None else f"{self.part.name} for {self.host}"


class Ledger:
    """The results of every task, by part and host, and the jobs that wait."""

    def __init__(self, parts: Sequence[Part], earlier: Results | None, *, each_node: bool) -> None:
        """earlier: the file of an unfinished run. A part goes on where it began."""
        self._parts = list(parts)
        self.each_node = each_node
        self._known: dict[tuple[int, str], Results] = {}
        for task in earlier.hosts if earlier else ():
            number = next((place for place, part in enumerate(self._parts) if is_of(task, part)), None)
            if number is not None:
                self._known[number, task.machine.host] = task
        self.given_up: dict[str, str] = {}  # job in words: why
        self.waiting: list[Job] = []
        self._met: set[str] = set()
        if each_node:
            for _, host in self._known:
                self.meet(host)
        else:
            self.waiting = sorted(self._unfinished(), key=lambda job: -job.part.size)

    def _unfinished(self) -> Iterator[Job]:
        for number, part in enumerate(self._parts):
            found = {host: task for (place, host), task in self._known.items() if place == number}
            if not any(is_whole(task, part) for task in found.values()):
                yield Job(part, next(iter(found), None))

    def meet(self, host: str) -> None:
        """A host is there: with each_node it measures the study too, unless it has."""
        if not self.each_node or host in self._met:
            return
        self._met.add(host)
        for number, part in enumerate(self._parts):
            known = self._known.get((number, host))
            if known is None or not is_whole(known, part):
                self.waiting.append(Job(part, host))

    def earlier_of(self, job: Job, host: str) -> Results | None:
        """What this host measured of the part before."""
        return self._known.get((self._parts.index(job.part), host))

    def keep(self, job: Job, results: Results) -> None:
        """Results so far of the part: a row says if workers were lost before. Other hosts' are dropped."""
        number, host = self._parts.index(job.part), results.machine.host
        if not self.each_node:
            for place in [place for place in self._known if place[0] == number and place[1] != host]:
                del self._known[place]
        self._known[number, host] = _with_losses(results, job.lost)

    def next_for(self, host: str, others: Set[str]) -> Job | None:
        """Take the next job that this host may measure. A part that was lost there goes to `others`."""
        for job in self.waiting:
            if job.host in (None, host) and (host not in job.lost or others <= set(job.lost)):
                self.waiting.remove(job)
                return job
        return None

    def wait_again(self, job: Job, host: str) -> bool:
        """The job's worker on this host was lost. False: that was too often, and the job is given up."""
        job.lost.append(host)
        if len(job.lost) < MOST_LOSSES:
            self.waiting.insert(0, job)
            return True
        self.given_up[job.name] = f"{MOST_LOSSES} workers were lost with it, on {', '.join(job.lost)}"
        return False

    def leave(self, host: str) -> None:
        """This host does not come back. Its jobs are any host's, or with each_node nobody's."""
        for job in [job for job in self.waiting if job.host == host]:
            if self.each_node:
                self.waiting.remove(job)
                self.given_up[job.name] = "the host is not there"
            job.host = None

    def stop(self, reason: str) -> None:
        """No host is left: give up every job that waits."""
        for job in self.waiting:
            self.given_up[job.name] = reason
        self.waiting.clear()

    @property
    def total(self) -> int:
        """How many parts there are, or hosts that measure the study."""
        return len(self._met) if self.each_node else len(self._parts)

    @property
    def hosts(self) -> list[Results]:
        """What each task measured: parts in the order of the study, of each host."""
        return [self._known[place] for place in sorted(self._known, key=lambda place: place[::-1])]

    def finished_by(self, host: str) -> int:
        """How many parts this host has measured whole."""
        return sum(
            is_whole(task, self._parts[number]) for (number, of), task in self._known.items() if of == host
        )

    @property
    def finished(self) -> int:
        """How many parts are measured whole, by whatever host."""
        return sum(is_whole(task, self._parts[number]) for (number, _), task in self._known.items())


def _with_losses(results: Results, lost: Sequence[str]) -> Results:
    """The results with a note in each row on the workers that were lost."""
    if not lost:
        return results
    note = f"measured again: the worker on {', '.join(lost)} was lost"
    fields: tuple[str, ...] = ("measurements", "training", "inference")
    return replace(
        results,
        **{
            name: [replace(row, note=_noted(row.note, note)) for row in getattr(results, name)]
            for name in fields
        },
    )


def _noted(before: str | None, note: str) -> str:
    kept = (
        []
        if before is None
        else [part for part in before.split("; ") if not part.startswith("measured again")]
    )
    return "; ".join([*kept, note])
