"""Which host measures which part, and what a lost worker changes."""

from __future__ import annotations

import msgspec
from helpers.fake_results import make_measurement, make_results
from msgspec.structs import replace

from flashbench.results.record import Results
from flashbench.studies.cluster.jobs import MOST_LOSSES, Job, Ledger
from flashbench.studies.cluster.parts import Part, parts_of
from flashbench.studies.study import Study

STUDY = Study(engines=["flash"], seq_lens=[16, 64, 32])


def measured(part: Part, host: str, *, complete: bool = True) -> Results:
    """What a task found."""
    results = make_results([make_measurement("flash", part.study.points()[0].problem.seqlen_q)])
    machine = replace(results.machine, host=host)
    return replace(
        results, machine=machine, config=msgspec.to_builtins(part.study), complete=complete, kind="profile"
    )


def file_of(*tasks: Results) -> Results:
    return replace(make_results([]), hosts=list(tasks), complete=False)


def test_the_longest_part_begins_first_and_the_file_has_the_study_s_order() -> None:
    ledger = Ledger(parts_of(STUDY), None, each_node=False)
    begun: list[Job] = []
    while (job := ledger.next_for("a", {"a"})) is not None:
        begun.append(job)
        ledger.keep(job, measured(job.part, "a"))
    assert [job.part.name for job in begun] == ["N=64", "N=32", "N=16"]
    assert [task.config["seq_lens"] for task in ledger.hosts] == [[16], [64], [32]]
    assert ledger.finished == ledger.finished_by("a") == ledger.total == 3


def test_a_part_whose_worker_was_lost_goes_elsewhere_and_its_rows_say_so() -> None:
    ledger = Ledger(parts_of(STUDY), None, each_node=False)
    job = ledger.next_for("a", {"a", "b"})
    assert job is not None
    ledger.keep(job, measured(job.part, "a", complete=False))
    assert ledger.wait_again(job, "a")
    assert ledger.next_for("a", {"a", "b"}) is not job
    assert ledger.next_for("b", {"a", "b"}) is job
    ledger.keep(job, measured(job.part, "b"))
    (task,) = ledger.hosts  # what the lost worker found is not pooled with it, nor kept beside it
    assert task.machine.host == "b"
    assert [row.note for row in task.measurements] == ["measured again: the worker on a was lost"]


def test_the_only_host_gets_its_part_again() -> None:
    ledger = Ledger(parts_of(STUDY), None, each_node=False)
    job = ledger.next_for("a", {"a"})
    assert job is not None
    assert ledger.wait_again(job, "a")
    assert ledger.next_for("a", {"a"}) is job


def test_a_part_that_ends_every_worker_is_given_up() -> None:
    ledger = Ledger(parts_of(STUDY), None, each_node=False)
    job = ledger.next_for("a", {"a"})
    assert job is not None
    for number in range(MOST_LOSSES):
        again = ledger.wait_again(job, f"n{number}")
        assert again == (number < MOST_LOSSES - 1)
        if again:
            assert ledger.next_for("x", {"x"}) is job
    assert ledger.given_up == {"N=64": "3 workers were lost with it, on n0, n1, n2"}


def test_each_node_measures_the_whole_study_once() -> None:
    ledger = Ledger(parts_of(STUDY, whole=True), None, each_node=True)
    for host in ("a", "b", "a"):
        ledger.meet(host)
    assert ledger.total == 2
    for host in ("a", "b"):
        job = ledger.next_for(host, {"a", "b"})
        assert job is not None
        assert job.part.study == STUDY
        assert ledger.next_for(host, {"a", "b"}) is None
        ledger.keep(job, measured(job.part, host))
    assert [task.machine.host for task in ledger.hosts] == ["a", "b"]


def test_a_host_of_each_node_that_is_lost_for_good_is_named() -> None:
    ledger = Ledger(parts_of(STUDY, whole=True), None, each_node=True)
    ledger.meet("a")
    ledger.leave("a")
    assert ledger.given_up == {"the study for a": "the host is not there"}
    assert not ledger.waiting


def test_a_resumed_run_measures_what_is_missing_where_it_began() -> None:
    parts = parts_of(STUDY)
    earlier = file_of(measured(parts[0], "a"), measured(parts[1], "b", complete=False))
    ledger = Ledger(parts, earlier, each_node=False)
    assert [(job.part.name, job.host) for job in ledger.waiting] == [("N=64", "b"), ("N=32", None)]
    job = ledger.next_for("b", {"b"})
    assert job is not None
    assert ledger.earlier_of(job, "b") == earlier.hosts[1]
    assert ledger.earlier_of(job, "a") is None


def test_a_resumed_part_whose_host_is_gone_begins_anew_elsewhere() -> None:
    parts = parts_of(STUDY)
    ledger = Ledger(parts, file_of(measured(parts[1], "b", complete=False)), each_node=False)
    ledger.leave("b")
    job = ledger.next_for("a", {"a"})
    assert job is not None
    assert job.part == parts[1]
    ledger.keep(job, measured(job.part, "a"))
    assert [task.machine.host for task in ledger.hosts] == ["a"]


def test_more_rounds_go_on_with_finished_parts() -> None:
    parts = parts_of(STUDY)
    earlier = file_of(*(measured(part, "a") for part in parts))
    assert not Ledger(parts, earlier, each_node=False).waiting
    more = parts_of(replace(STUDY, rounds=STUDY.rounds + 3))
    assert [job.host for job in Ledger(more, earlier, each_node=False).waiting] == ["a", "a", "a"]
