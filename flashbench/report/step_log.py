"""The log of a step of a GitHub workflow: printed text is shown, and is never a command."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from flashbench.report.github import in_github_actions

_AFTER_A_LINE = re.compile(r"(?<=[\n\r])")
_COMMAND = re.compile(r"(\s*:)(?=:)")
_MAY_BECOME_ONE = re.compile(r"\s*:?")


class StepLog:
    """A text stream in which no line begins with `::`, which the runner would take for a command.

    Texts of others never begin a line of ours, but a table may break them anywhere. Our own commands are
    written to `stream`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._start: str | None = ""  # beginning of the last line, while it may still become a command

    def write(self, text: str) -> int:
        """Write the text, with a blank between two colons at the beginning of a line."""
        for piece in _AFTER_A_LINE.split(text):
            shown = piece
            if self._start is not None:
                line = self._start + piece
                if _COMMAND.match(line):
                    line = _COMMAND.sub(r"\1 ", line, count=1)
                shown = line[len(self._start) :]
                self._start = line if _MAY_BECOME_ONE.fullmatch(line) else None
            if piece.endswith(("\n", "\r")):
                self._start = ""
            self.stream.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def guarded_log() -> Iterator[None]:
    """Guard stdout and stderr within the body in GitHub Actions; elsewhere change nothing."""
    with contextlib.ExitStack() as stack:
        if in_github_actions():
            for redirect, stream in (
                (contextlib.redirect_stdout, sys.stdout),
                (contextlib.redirect_stderr, sys.stderr),
            ):
                if stream is not None:
                    stack.enter_context(redirect(cast(TextIO, StepLog(stream))))
        yield
