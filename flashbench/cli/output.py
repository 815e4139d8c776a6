"""Where the results of a run go: files that grow during the run, stdout, and what Ctrl-C leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flashbench.cli.groups import Output
from flashbench.cli.say import say
from flashbench.cli.streams import check_output, same_file
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.results.hosts import each_host
from flashbench.results.record import Results
from flashbench.results.store import encode
from flashbench.results.stream import GrowingFile
from flashbench.studies.nothing import is_empty
from flashbench.studies.runner import Interrupted


class RunInterruptedError(FlashbenchError):
    """Ctrl-C during a run; the message says what was kept."""

    exit_code = 130


class ResultFiles:
    """The files of --json and --save. With --json, everything but the results goes to stderr."""

    def __init__(self, output: Output) -> None:
        """Raises ConfigError or ResultsError, before a run, if a file cannot be written or resumed."""
        json, save, resume = output
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
        """Write the results so far."""
        for file in self._files:
            file.write(results)

    @contextmanager
    def keeping_interrupted(self) -> Iterator[None]:
        """After Ctrl-C in the body, write the results so far and raise an error that says what was kept.

        After any other error, close the files, so that other runs may use them.
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
        """Write all results, to stdout too for --json -, and close the files: other runs may use them."""
        try:
            for file in self._files:
                file.finish(results)
        finally:
            self._close()
        if self._to_stdout:
            sys.stdout.write(encode(results).decode())
            sys.stdout.flush()

    def warn(self, results: Results) -> None:
        """Print warnings about the results on stderr."""
        empty = ["nothing was measured"] if is_empty(results) else []
        of_hosts = [
            f"{host.machine.host}: {line}"
            for host in (each_host(results) if results.hosts else ())
            for line in host.warnings
        ]
        for line in [*results.warnings, *of_hosts, *empty]:
            say(f"warning: {line}")

    def _close(self) -> None:
        for file in self._files:
            file.close()

    def _what_is_kept(self, results: Results) -> tuple[str, str | None]:
        count = len(results.rows)
        measured = f"{count} measurement{'' if count == 1 else 's'} begun or finished"
        files = [file for file in self._files if file.can_grow]
        if not count or not files:
            return f"{measured}, none kept", None
        kept = " and ".join(str(file.write(results)) for file in files)
        return f"{measured}, kept in {kept}", "the same command with --resume goes on"
