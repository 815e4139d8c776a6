"""What a command says to GitHub Actions: a summary of its step, and annotations of what went wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

from flashbench.texts import to_utf8

Level = Literal["error", "warning", "notice"]
# GitHub drops a step's summary altogether when its file is larger, and a few bytes earlier by some reports
# (actions/runner#4337).
SUMMARY_BYTES = 1024 * 1024 - 64
# What GitHub shows of a step, of each level; the rest it drops without a word.
ANNOTATIONS = 10
CUT = "\n\n_Cut off here: GitHub takes 1 MiB of summary from a step._\n"


class Annotation(NamedTuple):
    """A line on the page of the run and at the top of its log."""

    level: Level
    title: str
    message: str


def in_github_actions() -> bool:
    """Whether this process is part of a step of a GitHub workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def report_to_github(markdown: str, annotations: Sequence[Annotation], *, out: IO[str]) -> None:
    """In GitHub Actions: append `markdown` to the step's summary, write the annotations; elsewhere nothing.

    Annotations go to `out`, past a `StepLog`: stderr where stdout carries data, for the runner reads both.
    A summary that could not be written is a warning before them, for it must not hide a verdict or the
    exit code.
    """
    if not in_github_actions():
        return
    trouble = append_summary(markdown)
    if trouble is not None:
        annotations = [Annotation("warning", "no step summary", trouble), *annotations]
    annotate(annotations, out=out)


def annotate(annotations: Sequence[Annotation], *, out: IO[str]) -> None:
    """Write annotations as workflow commands; outside GitHub Actions nothing.

    Of more than GitHub shows of a level, the last one shown counts those that are not.
    """
    if not in_github_actions():
        return
    out = getattr(out, "stream", out)  # of a StepLog, which would make no command of them
    by_level: dict[Level, list[Annotation]] = {}
    for annotation in annotations:
        by_level.setdefault(annotation.level, []).append(annotation)
    for level, group in by_level.items():
        shown = group if len(group) <= ANNOTATIONS else group[: ANNOTATIONS - 1]
        out.writelines(map(command_line, shown))
        if len(shown) < len(group):
            more = len(group) - len(shown)
            out.write(command_line(Annotation(level, f"{more} more", "the step's summary has them all")))
    out.flush()


def command_line(annotation: Annotation) -> str:
    """The workflow command, ending in a newline; no text can end it early or begin another.

    >>> command_line(Annotation("error", "flash, N 1024: slower", "by 12 %\\nthan base"))
    '::error title=flash%2C N 1024%3A slower::by 12 %25%0Athan base\\n'
    """
    level, title, message = annotation
    title = _escape(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_escape(message)}\n"


def append_summary(markdown: str) -> str | None:
    """Append to the step's summary as much as GitHub takes, cut at a line; outside GitHub Actions nothing.

    Returns what kept it from being written, or None. What the file holds already stays.
    """
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not in_github_actions() or not name:
        return None
    path = Path(name)
    try:
        size = path.stat().st_size if path.exists() else 0
        # A table needs a blank line before it.
        text = ("\n\n" if size else "") + markdown.rstrip("\n") + "\n"
        content = _cut(text, SUMMARY_BYTES - size)
        if not content:
            return f"the step's summary has no room left: it holds {size} bytes of {SUMMARY_BYTES}"
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        return f"cannot append to the step's summary: {error.strerror or error}"
    return None


def _cut(text: str, room: int) -> bytes:
    """The text, or its first lines and a line that says so; empty when not even a line has room."""
    content = to_utf8(text)
    if len(content) <= room:
        return content
    kept = content[: max(0, room - len(CUT))]
    end = kept.rfind(b"\n")
    return kept[:end] + CUT.encode() if kept[: end + 1].strip() else b""


def _escape(text: str) -> str:
    """As the toolkit's own `escapeData` does it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
