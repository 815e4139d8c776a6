"""The progress of a long run: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from flashbench.cli.say import say
from flashbench.results.one_line import one_line
from flashbench.studies.session import Progress

OnProgress = Callable[[Progress], None]
# In a log, which keeps every line.
SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def show_progress(*, at_once: bool = True) -> Iterator[OnProgress]:
    """Yield a function that shows progress on stderr.

    at_once: let a log begin with a line; otherwise a short run writes none.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines_now_and_then(-SECONDS_BETWEEN_LINES if at_once else time.monotonic())
        return
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        # Not markup: a label may contain brackets.
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False),
    )
    # Drawn between measurements only: a thread that redraws would slow down the timed code.
    with ProgressBar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("starting", total=None, left="")

        def on_progress(step: Progress) -> None:
            bar.update(
                task,
                description=one_line(step.label),
                completed=step.done,
                total=step.total,
                left=time_left(step),
                refresh=True,
            )

        yield on_progress


def time_left(step: Progress) -> str:
    """`2:05 left`; empty while it is unknown.

    >>> time_left(Progress(1, 9, "", 125.4)), time_left(Progress(1, 9, ""))
    ('2:05 left', '')
    """
    if step.left_s is None:
        return ""
    minutes, seconds = divmod(round(step.left_s), 60)
    return f"{minutes}:{seconds:02} left"


def _lines_now_and_then(last: float) -> OnProgress:
    """last: the time to count from until the first line."""

    def on_progress(step: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or step.done == step.total:
            last = now
            left = f", {time_left(step)}" if step.left_s else ""
            say(f"[{step.done}/{step.total}{left}] {step.label}")

    return on_progress
