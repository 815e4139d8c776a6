"""Output for GitHub Actions: a summary of the step, and annotations of what went wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

from flashbench.texts import to_utf8

Level = Literal["error", "warning", "notice"]
# GitHub drops the whole summary of a step if its file is larger. Some reports say a few bytes earlier
# (actions/runner#4337).
SUMMARY_BYTES = 1024 * 1024 - 64
# GitHub shows this many of a step for each level, and drops the rest silently.
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
    """In GitHub Actions, append `markdown` to the step's summary and write the annotations.

    Annotations go to `out`, without its `StepLog`. The runner reads stdout and stderr, so `out` may be stderr
    if stdout carries data. If the summary cannot be written, a warning comes first: this must not hide a
    verdict or the exit code.
    """
    if not in_github_actions():
        return
    trouble = append_summary(markdown)
    if trouble is not None:
        annotations = [Annotation("warning", "no step summary", trouble), *annotations]
    annotate(annotations, out=out)


def annotate(annotations: Sequence[Annotation], *, out: IO[str]) -> None:
    """Write annotations as workflow commands; outside GitHub Actions nothing.

    If a level has more than GitHub shows, the last one shown counts the others.
    """
    if not in_github_actions():
        return
    out = getattr(out, "stream", out)  # a StepLog would disarm these commands
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
    """The workflow command, ending in a newline. No text can end it early or begin another one.

    >>> command_line(Annotation("error", "flash, N 1024: slower", "by 12 %\\nthan base"))
    '::error title=flash%2C N 1024%3A slower::by 12 %25%0Athan base\\n'
    """
    level, title, message = annotation
    title = _escape(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_escape(message)}\n"


def append_summary(markdown: str) -> str | None:
    """Append to the step's summary as many lines as GitHub takes; outside GitHub Actions do nothing.

    Returns the reason if it could not be written, or None. The file keeps its content.
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
    """The text, or its first lines and a remark that it was cut; empty if not even one line fits."""
    content = to_utf8(text)
    if len(content) <= room:
        return content
    kept = content[: max(0, room - len(CUT))]
    end = kept.rfind(b"\n")
    return kept[:end] + CUT.encode() if kept[: end + 1].strip() else b""


def _escape(text: str) -> str:
    """The text escaped as by the toolkit's own `escapeData`."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
