"""The progress of a long run: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from flashbench.cli.say import say
from flashbench.results.one_line import one_line
from flashbench.studies.progress import HostProgress, Progress

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
    hosts: list[HostProgress] = []

    class Bars(ProgressBar):
        """The bar, and below it a table of what each host of a cluster does."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            if hosts:
                yield host_table(hosts)

    # Drawn between measurements only: a thread that redraws would slow down the timed code.
    with Bars(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("starting", total=None, left="")

        def on_progress(step: Progress) -> None:
            hosts[:] = step.hosts
            if step.news is not None:
                bar.console.print(one_line(step.news), markup=False, highlight=False)
            bar.update(
                task,
                description="" if hosts else one_line(step.label),
                completed=step.done,
                total=step.total,
                left=time_left(step),
                refresh=True,
            )

        yield on_progress


def host_table(hosts: Sequence[HostProgress]) -> Table:
    """What each host does now."""
    table = Table("Host", "Done", "Part", "Step", "Left", "Now", box=None, pad_edge=False)
    for host in hosts:
        step = f"{host.done}/{host.total}" if host.total else ""
        words = (host.host, str(host.finished), host.part or "idle", step, time_left(host), host.label)
        table.add_row(*(Text(one_line(word), overflow="ellipsis", no_wrap=True) for word in words))
    return table


def host_line(host: HostProgress) -> str:
    """A row of `host_table`, of a host at work, for a log.

    >>> host_line(HostProgress("node1", 2, "N=512", "flash: time", 3, 9, 65.0))
    'node1: N=512, 3/9, 1:05 left, flash: time'
    """
    step = f"{host.done}/{host.total}" if host.total else ""
    return f"{host.host}: {', '.join(filter(None, (host.part, step, time_left(host), host.label)))}"


def time_left(step: Progress | HostProgress) -> str:
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
        if step.news is not None:
            say(f"[{step.done}/{step.total}] {step.news}")
        elif now - last >= SECONDS_BETWEEN_LINES or step.done == step.total:
            last = now
            left = f", {time_left(step)}" if step.left_s else ""
            busy = [host_line(host) for host in step.hosts if host.part is not None]
            for line in busy or [step.label]:
                say(f"[{step.done}/{step.total}{left}] {line}")

    return on_progress
