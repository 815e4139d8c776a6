"""Where a run's results go: files that grow with it, stdout when asked, and what an interrupted one keeps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flashbench.cli.say import say
from flashbench.cli.streams import check_output, same_file
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.results.record import Results
from flashbench.results.store import encode
from flashbench.results.stream import GrowingFile
from flashbench.studies.nothing import is_empty
from flashbench.studies.runner import Interrupted


class RunInterruptedError(FlashbenchError):
    """Ctrl-C during a run; the message says what was kept."""

    exit_code = 130


class ResultFiles:
    """The files of --json and --save. With --json all but the results goes to stderr."""

    def __init__(self, json: str | None, save: str | None, *, resume: bool = False) -> None:
        """Raises ConfigError and ResultsError, before a run, when they cannot be written or resumed."""
        if save == "-":
            raise ConfigError("--save takes a file, not '-'", hint="--json - writes the results to stdout")
        if json is not None and save is not None and same_file(json, save):
            raise ConfigError(f"--json and --save are both {save}: one of them is enough")
        names = [path for path in (json, save) if path is not None and path != "-"]
        if resume and len(names) != 1:
            raise ConfigError(
                f"--resume needs one file to go on with, not {len(names)}",
                hint="name the file of the unfinished run with --save",
            )
        self._to_stdout = json == "-"
        if self._to_stdout:
            check_output(json)
        self._files: list[GrowingFile] = []
        try:
            for path in names:
                self._files.append(GrowingFile(path, resume=resume))
        except BaseException:
            self._close()
            raise
        for file in self._files:
            if file.replaces is not None:
                say(f"at its end this run replaces {file.replaces}")
        self.earlier = self._files[0].earlier if resume else None
        self.console = Console(stderr=json is not None)

    def keep(self, results: Results) -> None:
        """Write what is known so far."""
        for file in self._files:
            file.write(results)

    @contextmanager
    def keeping_interrupted(self) -> Iterator[None]:
        """Ctrl-C in the body ends with what is known in the files, and a line that says so.

        Whatever else ends it leaves the files to other runs.
        """
        try:
            yield
        except Interrupted as stop:
            message, hint = self._what_is_kept(stop.results)
            self._close()
            raise RunInterruptedError(message, hint=hint) from stop
        except BaseException:
            self._close()
            raise

    def finish(self, results: Results) -> None:
        """Write all of it, to stdout too if that was asked for; the files are other runs' from then on."""
        try:
            for file in self._files:
                file.finish(results)
        finally:
            self._close()
        if self._to_stdout:
            sys.stdout.write(encode(results).decode())
            sys.stdout.flush()

    def warn(self, results: Results) -> None:
        """What a reader of the tables should know, on stderr."""
        empty = ["nothing was measured"] if is_empty(results) else []
        for line in [*results.warnings, *empty]:
            say(f"warning: {line}")

    def _close(self) -> None:
        for file in self._files:
            file.close()

    def _what_is_kept(self, results: Results) -> tuple[str, str | None]:
        count = len(results.measurements) + len(results.training)
        measured = f"{count} measurement{'' if count == 1 else 's'} begun or finished"
        files = [file for file in self._files if file.can_grow]
        if not count or not files:
            return f"{measured}, none kept", None
        kept = " and ".join(str(file.write(results)) for file in files)
        return f"{measured}, kept in {kept}", "the same command with --resume goes on"
