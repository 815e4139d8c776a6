"""A results file that grows with its run: at every moment it is a complete results file of what is known.

Each step rewrites it atomically, so a kill loses only the step at hand. A finished file of an earlier run is
kept until this run is complete: meanwhile the growing file stands beside it, as NAME.partial.json. One run at
a time has the file: see `results.lock`.
"""

from __future__ import annotations

from pathlib import Path

from flashbench.errors import ResultsError
from flashbench.results.beside import beside
from flashbench.results.lock import FileLock
from flashbench.results.record import Results
from flashbench.results.store import check_writable, load, remove_parts, save, write_whole
from flashbench.texts import to_json


class GrowingFile:
    """The file at `path`, and the unfinished results of an earlier run there."""

    def __init__(self, path: str, *, resume: bool = False) -> None:
        """Raises ResultsError when the file cannot be written, when another run writes it, when it would
        overwrite an unfinished run without `resume`, and when the results to resume cannot be read.
        """
        check_writable(path)
        self.path = Path(path)
        # Lock before looking: what an earlier run left must not change afterwards.
        self._lock = FileLock(path) if self.can_grow else None
        try:
            self._look(resume)
        except BaseException:
            self.close()
            raise

    def _look(self, resume: bool) -> None:
        """Find out what is there: results to resume, to keep for now, or to replace at the end."""
        self.earlier: Results | None = None  # to resume
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
                count = len(results.rows)
                raise ResultsError(
                    f"{each} holds {count} measurement{'' if count == 1 else 's'} of an unfinished run",
                    hint=f"--resume goes on with it; to begin again: rm {each}",
                )
        finished = self.path.is_file() and self.path not in unfinished
        self._growing = partial if finished else self.path
        check_writable(self._growing)
        self.replaces = self._finished_words() if finished and not resume else None

    def close(self) -> None:
        """Let other runs write the file."""
        if self._lock is not None:
            self._lock.release()

    def _finished_words(self) -> str:
        """The file that this run's results will replace, in words for the user."""
        try:
            earlier = load(self.path)
        except ResultsError:
            return f"{self.path}, which is no results file"
        return f"{self.path}, a finished {earlier.kind} of {earlier.created[:16].replace('T', ' ')}"

    @property
    def can_grow(self) -> bool:
        """Whether it is a file. A pipe or a device gets the results once, at the end."""
        return not self.path.exists() or self.path.is_file()

    def write(self, results: Results) -> Path:
        """Write what is known so far; returns the path."""
        if self.can_grow:
            write_whole(self._growing, to_json(results), durable=False)
        return self._growing

    def finish(self, results: Results) -> None:
        """Write the final results, indented for people, and `close`. Unfinished results stay resumable."""
        try:
            save(results, self.path if results.complete else self._growing)
            if results.complete and self._growing != self.path:
                self._growing.unlink(missing_ok=True)
        finally:
            self.close()


def _unfinished(path: Path) -> Results | None:
    """The results at `path` if they are of an unfinished run; None for anything else."""
    if not path.is_file():
        return None
    try:
        results = load(path)
    except ResultsError:
        return None
    return None if results.complete else results
