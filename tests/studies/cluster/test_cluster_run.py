"""Studies on clusters of Dask, whose workers are processes of this machine: what is measured where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from flashbench.results.hosts import each_host
from flashbench.studies.infer import InferStudy
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.progress import Progress
from flashbench.studies.runner import failed, run

pytest.importorskip("distributed")

from dask.config import set as dask_settings
from helpers.clusters import STUDY, hosts, lengths, measured

from flashbench.studies.cluster import dispatch
from flashbench.studies.cluster.task import own_environment


def test_lengths_are_shared_among_hosts(two_hosts: Any) -> None:
    seen: list[Progress] = []
    results = measured(STUDY, two_hosts, on_progress=seen.append)
    assert results.complete
    assert not failed(results)
    assert lengths(results) == [16, 24]
    assert {one.machine.host for one in each_host(results)} <= {"node1", "node2"}
    for task in results.hosts:
        assert task.machine.cpu
        assert task.machine.libraries
        assert all(row.time is not None and row.accuracy is not None for row in task.measurements)
        # The nanny sets one thread; the study asked for one too, so look at what it did not ask for.
        assert set(task.processes) == {"numpy"}
    news = [step.news for step in seen if step.news]
    assert sum("begins on" in line for line in news) == 2
    assert sum("is done on" in line for line in news) == 2
    assert seen[-1].done == seen[-1].total == 2


@pytest.mark.grid
def test_each_node_measures_everything(two_hosts: Any) -> None:
    results = measured(STUDY, two_hosts, each_node=True)
    assert results.complete
    first, second = each_host(results)
    assert [first.machine.host, second.machine.host] == ["node1", "node2"]
    for host in (first, second):
        assert [row.problem.seqlen_q for row in host.measurements] == [16, 24]


@pytest.mark.grid
def test_one_machine_measures_one_thing_at_a_time(two_hosts: Any) -> None:
    """Both workers run on this machine, so they take turns, whatever they call themselves."""
    busy: list[int] = []
    measured(
        STUDY,
        two_hosts,
        on_progress=lambda step: busy.append(sum(host.part is not None for host in step.hosts)),
    )
    assert max(busy) == 1


@pytest.mark.grid
def test_threads_are_the_study_s_and_not_the_nanny_s() -> None:
    study = replace(STUDY, seq_lens=[16], threads=None)
    alone = run(study, command=[])
    with hosts(["node1"], environment={"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}) as cluster:
        (host,) = each_host(measured(study, cluster))
    assert host.measurements[0].threads == alone.measurements[0].threads
    assert host.processes["numpy"].environment == alone.processes["numpy"].environment


def test_the_nanny_s_settings_do_not_reach_a_part_but_the_name_of_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else two hosts of one image would have one name, and the results of one would replace the other's."""
    given = {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "FLASHBENCH_NODE": "node1"}
    for name, value in (given | {"NUMBA_NUM_THREADS": "1", "PLAIN": "1"}).items():
        monkeypatch.setenv(name, value)
    with dask_settings({"distributed.nanny.environ": given}):
        found = own_environment()
    assert {name: found.get(name) for name in [*given, "NUMBA_NUM_THREADS", "PLAIN"]} == {
        "MALLOC_TRIM_THRESHOLD_": None,
        "OMP_NUM_THREADS": None,
        "NUMBA_NUM_THREADS": None,
        "FLASHBENCH_NODE": "node1",
        "PLAIN": "1",
    }


@pytest.mark.grid
def test_a_part_that_cannot_be_measured_is_named_and_others_are_measured(two_hosts: Any) -> None:
    study = replace(STUDY, engines=["numpy"], seq_lens=[16, 8192], memory_budget_bytes=200_000_000)
    results = measured(study, two_hosts)
    assert lengths(results) == [16]
    assert results.warnings[0].startswith("N=8192 on node")
    assert "needs" in results.warnings[0]
    with pytest.raises(NothingToMeasureError, match="N=8192 on node"):
        measured(replace(study, seq_lens=[8192]), two_hosts)


@pytest.mark.grid
def test_lengths_do_not_wait_for_workers_that_nobody_needs(
    two_hosts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with jobs of SLURM that wait in the queue."""
    monkeypatch.setattr(dispatch.Dispatch, "_to_come", lambda _: "a job of SLURM: PENDING (Resources)")
    assert measured(STUDY, two_hosts).complete


@pytest.mark.grid
def test_whole_models_from_the_command_s_directory(
    two_hosts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"} | sizes | heads))
    monkeypatch.chdir(tmp_path)
    study = InferStudy(
        models=["first", "second"],
        attentions=["sdpa", "flash"],
        prompt=[4],
        generate=[],
        rounds=1,
        memory=False,
    )
    results = measured(study, two_hosts)
    assert results.complete, results.warnings
    rows = [row for task in results.hosts for row in task.inference]
    assert sorted((row.model, row.attention, row.status) for row in rows) == [
        (model, attention, "ok") for model in ("first", "second") for attention in ("flash", "sdpa")
    ]
