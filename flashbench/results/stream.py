"""A results file that grows with its run: at every moment it is a whole results file of what is known.

It is written anew at each step, in one move, so that a kill at any moment costs only what was in flight.
A finished file of an earlier run is not given up for an unfinished one: then the growing file stands
beside it, as NAME.partial.json, until it is complete.
"""

from __future__ import annotations

from pathlib import Path

from flashbench.errors import ResultsError
from flashbench.results.beside import beside
from flashbench.results.record import Results
from flashbench.results.store import check_writable, load, remove_parts, save, write_whole
from flashbench.texts import to_json


class GrowingFile:
    """The file at `path`, and what a run that was cut short left there."""

    def __init__(self, path: str, *, resume: bool = False) -> None:
        """Raises ResultsError when nothing can be written there, when an unfinished run would be
        overwritten without `resume`, and when there is nothing to resume that can be read.
        """
        check_writable(path)
        self.path = Path(path)
        self.earlier: Results | None = None  # to go on from
        partial = beside(self.path, "partial")
        unfinished = {
            each: results for each in (partial, self.path) if (results := _unfinished(each)) is not None
        }
        if resume:
            self.earlier = next(iter(unfinished.values()), None)
            if self.earlier is None and self.path.is_file():
                self.earlier = load(self.path)
            for each in (partial, self.path):
                remove_parts(each)
        else:
            for each, results in unfinished.items():
                raise ResultsError(
                    f"{each} holds {len(results.measurements)} measurements of an unfinished run",
                    hint=f"--resume goes on with it; to begin again: rm {each}",
                )
        finished = self.path.is_file() and self.path not in unfinished
        self._growing = partial if finished else self.path
        check_writable(self._growing)

    @property
    def can_grow(self) -> bool:
        """Whether it is a file; a pipe or a device takes the results once, at the end."""
        return not self.path.exists() or self.path.is_file()

    def write(self, results: Results) -> Path:
        """Keep what is known so far; returns where."""
        if self.can_grow:
            write_whole(self._growing, to_json(results), durable=False)
        return self._growing

    def finish(self, results: Results) -> None:
        """Keep all of it, for reading by people too; unfinished results stay resumable."""
        if not results.complete:
            save(results, self._growing)
            return
        save(results, self.path)
        if self._growing != self.path:
            self._growing.unlink(missing_ok=True)


def _unfinished(path: Path) -> Results | None:
    """The results there if they are of an unfinished run that can go on; None for anything else."""
    if not path.is_file():
        return None
    try:
        results = load(path)
    except ResultsError:
        return None
    return None if results.complete or results.kind in ("duel", "train") else results
