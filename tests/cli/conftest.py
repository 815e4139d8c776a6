"""The command line as a function, and a runner that measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from helpers.fake_results import make_measurement, make_results

from flashbench.cli.app import main
from flashbench.results.record import Results, Status
from flashbench.studies import runner
from flashbench.studies.progress import Progress
from flashbench.studies.study import Study


class Outcome(NamedTuple):
    """Exit code and output of a command line."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Outcome]


@pytest.fixture
def flashbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """`flashbench("profile", "--plain")`, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> Outcome:
        code = main(words)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


class FakeRunner:
    """Stands in for `studies.runner.run`: made-up figures for every point of the study."""

    def __init__(self) -> None:
        self.studies: list[Study] = []
        self.commands: list[list[str]] = []
        self.resumed: list[Results | None] = []
        self.status: Status = "ok"
        self.stop_after: int | None = None  # points until Ctrl-C

    def __call__(
        self,
        study: Study,
        *,
        command: Sequence[str],
        on_progress: Callable[[Progress], None],
        on_results: Callable[[Results], None],
        earlier: Results | None,
    ) -> Results:
        self.studies.append(study)
        self.commands.append(list(command))
        self.resumed.append(earlier)
        rows = []
        points = study.points()
        for index, point in enumerate(points):
            if index == self.stop_after:
                raise runner.Interrupted(make_results(rows, kind=study.kind, complete=False))
            for what in ("first call", "time"):
                on_progress(Progress(index, len(points), f"{point.engine}: {what}"))
            problem = point.problem
            rows.append(
                make_measurement(
                    point.engine,
                    problem.seqlen_q,
                    problem=problem,
                    block=point.settings.block_q,
                    status=self.status,
                    reason=None if self.status == "ok" else "so it was asked",
                    direction=point.direction,
                )
            )
            on_results(make_results(rows, kind=study.kind, complete=False))
        return make_results(rows, kind=study.kind)


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    """The fake runner, in place."""
    fake = FakeRunner()
    monkeypatch.setattr(runner, "run", fake)
    return fake
