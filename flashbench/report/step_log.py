"""The log of a step of a GitHub workflow: what is printed there is shown, and commands nothing."""

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
    """A text stream in which no line begins with `::`, which the runner would take for a command of ours.

    No text of others begins a line, but a table breaks them at its width, anywhere. Our own commands go to
    `stream`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._start: str | None = ""  # of the last line, as long as it may still become a command

    def write(self, text: str) -> int:
        """Write the text, with a blank between two colons that would begin a line."""
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
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def guarded_log() -> Iterator[None]:
    """In GitHub Actions stdout and stderr are such streams within the body; elsewhere nothing changes."""
    with contextlib.ExitStack() as stack:
        if in_github_actions():
            for redirect, stream in (
                (contextlib.redirect_stdout, sys.stdout),
                (contextlib.redirect_stderr, sys.stderr),
            ):
                if stream is not None:
                    stack.enter_context(redirect(cast(TextIO, StepLog(stream))))
        yield
