"""--cluster on the command line, around a made-up cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_results import make_measurement, make_results
from msgspec.structs import replace

from flashbench.cli.progress import show_progress
from flashbench.results.hosts import each_host
from flashbench.results.record import Results
from flashbench.results.store import load
from flashbench.studies.progress import HostProgress, Progress
from flashbench.studies.runner import Interrupted

pytest.importorskip("distributed")

from flashbench.studies import cluster as package


def host(name: str, *lengths: int) -> Results:
    rows = [make_measurement(engine, length) for length in lengths for engine in ("standard", "flash")]
    results = make_results(rows)
    return replace(
        results,
        machine=replace(results.machine, host=name),
        config=results.config | {"threads": 2},
        warnings=["the clock was low"] if name == "node2" else [],
    )


class FakeCluster:
    """Stands in for `run_on_cluster`."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.interrupted = False
        self.complete = True

    def __call__(
        self,
        study: Any,
        *,
        cluster: str,
        each_node: bool,
        command: Sequence[str],
        on_progress: Callable[[Progress], None],
        on_results: Callable[[Results], None],
        earlier: Results | None,
    ) -> Results:
        self.asked = {"cluster": cluster, "each_node": each_node, "earlier": earlier, "study": study}
        lengths = [(128,), (512,)] if not each_node else [(128, 512), (128, 512)]
        outer = make_results([], kind=study.kind)
        results = replace(
            outer,
            config={**outer.config, "each_node": each_node},
            hosts=[host(f"node{number + 1}", *found) for number, found in enumerate(lengths)],
            complete=self.complete,
        )
        on_results(replace(results, complete=False))
        if self.interrupted:
            raise Interrupted(replace(results, complete=False))
        return results


@pytest.fixture
def fake_cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster()
    monkeypatch.setattr(package, "run_on_cluster", fake)
    return fake


WORDS = ("profile", "--seq-lens", "128,512", "--cluster", "tcp://node0:8786")


def test_each_host_has_a_table_of_its_own(flashbench, fake_cluster, snapshot) -> None:
    done = flashbench(*WORDS)
    assert done.code == 0
    assert done.out == snapshot
    assert "warning: node2: the clock was low" in done.err
    assert (fake_cluster.asked["cluster"], fake_cluster.asked["each_node"]) == ("tcp://node0:8786", False)


def test_json_has_all_hosts(flashbench, fake_cluster, tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    assert flashbench(*WORDS, "--each-node", "--save", str(path)).code == 0
    assert fake_cluster.asked["each_node"]
    assert [one.machine.host for one in each_host(load(path))] == ["node1", "node2"]


def test_each_host_has_a_chart_of_its_own(flashbench, fake_cluster, tmp_path: Path) -> None:
    assert flashbench(*WORDS, "--plot", str(tmp_path / "chart.svg")).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart-node1.svg", "chart-node2.svg"]


def test_what_was_not_measured_fails(flashbench, fake_cluster) -> None:
    fake_cluster.complete = False
    assert flashbench(*WORDS).code == 1


def test_ctrl_c_keeps_a_file_that_resume_goes_on_with(flashbench, fake_cluster, tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    fake_cluster.interrupted = True
    done = flashbench(*WORDS, "--save", str(path))
    assert done.code == 130
    assert "4 measurements begun or finished, kept in" in done.err
    fake_cluster.interrupted = False
    assert flashbench(*WORDS, "--save", str(path), "--resume").code == 0
    assert fake_cluster.asked["earlier"].hosts
    assert load(path).complete


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("profile", "--each-node"), "--each-node measures on each host of a cluster: give --cluster too"),
        ((*WORDS, "--plain"), "--plain is of one machine: leave out --cluster"),
        ((*WORDS, "--predict"), "--predict is of one machine: leave out --cluster"),
    ],
)
def test_options_that_contradict_each_other_are_named(flashbench, fake_cluster, words, error) -> None:
    done = flashbench(*words)
    assert done.code == 2
    assert f"error: {error}" in done.err


HOSTS = [
    HostProgress("node1", 2, "N=4096", "flash fwd: time, round 2 of 6", 7, 24, 65.0),
    HostProgress("node2", 1),
]


def test_a_log_has_a_line_for_each_host_at_work_and_all_news(capsys) -> None:
    with show_progress() as on_progress:
        on_progress(Progress(3, 5, "N=4096", hosts=HOSTS))
        on_progress(Progress(3, 5, "N=512 begins on node2", hosts=HOSTS, news="N=512 begins on node2"))
    assert capsys.readouterr().err.splitlines() == [
        "[3/5] node1: N=4096, 7/24, 1:05 left, flash fwd: time, round 2 of 6",
        "[3/5] N=512 begins on node2",
    ]


def test_a_terminal_has_a_table_of_hosts(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with show_progress() as on_progress:
        on_progress(Progress(3, 5, "N=4096", hosts=HOSTS))
    shown = capsys.readouterr().err
    for word in ("Host", "node1", "N=4096", "7/24", "1:05 left", "node2", "idle"):
        assert word in shown
