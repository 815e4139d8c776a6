"""Verdicts on hosts in their three formats, and the tables of files of several hosts."""

from __future__ import annotations

import json

import msgspec
import pytest
from helpers.fake_hosts import make_cluster, make_host, make_hosts
from helpers.fake_results import make_measurement
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.analysis.across_hosts import AcrossHosts, across_hosts
from flashbench.analysis.compare_hosts import compare_hosts
from flashbench.report.across_hosts import across_json, across_markdown, across_report
from flashbench.report.annotations import across_annotations
from flashbench.report.compare_hosts import compare_hosts_report
from flashbench.report.hosts import across_of, host_line
from flashbench.report.markdown import results_markdown
from flashbench.results.record import Results


@pytest.fixture
def across() -> AcrossHosts:
    """Every verdict, two CPU models, and a host with a long name."""
    hosts = make_hosts(8, 30, slow={1: 1.1, 4: 0.85})
    hosts[2] = make_host("node2", 1, read_bandwidth_gbps=13.0)
    hosts[3] = make_host("node3", 2, slower_rows={1: 1.2, 3: 1.3})
    crashed = make_measurement("flash", 2048, status="crashed", reason="killed by signal 11")
    rows = [hosts[6].measurements[0], crashed, *hosts[6].measurements[2:]]
    hosts[6] = msgspec.structs.replace(hosts[6], measurements=rows)
    long = make_host("ip-10-0-12-133.eu-central-1.compute.internal", 3)
    others = [make_host(f"big{number}", 40 + number, cpu="Example CPU 9900") for number in range(2)]
    alone = make_host("odd", 50, governor="powersave")
    files = [
        ("nodes.json", make_cluster([*hosts, long])),
        *((f"{one.machine.host}.json", one) for one in (*others, alone)),
    ]
    return across_hosts(files)


@pytest.mark.parametrize("width", [80, 120])
def test_table(across: AcrossHosts, snapshot: SnapshotAssertion, width: int) -> None:
    assert rendered(across_report(across), width=width) == snapshot


def test_markdown(across: AcrossHosts, snapshot: SnapshotAssertion) -> None:
    assert across_markdown(across) == snapshot


def test_json_has_all_figures_and_the_exit_code(across: AcrossHosts) -> None:
    document = json.loads(across_json(across))
    assert document["exit_code"] == across.exit_code == 1
    assert [node["verdict"] for node in document["nodes"]] == [node.verdict for node in across.nodes]
    assert document["nodes"][1]["time"]["p_holm"] < 0.025


def test_annotations_name_what_is_slower_failed_or_untold(across: AcrossHosts) -> None:
    found = across_annotations(across)
    assert [(one.level, one.title) for one in found] == [
        ("error", "node1: slower"),
        ("error", "node2: slower"),
        ("error", "node3: slower"),
        ("error", "node6: failed"),
        ("warning", "odd: cannot be told"),
    ]
    assert found[0].message.startswith("time 1.11x; slower in 4 rows together, and by itself in 2: ")


def test_a_file_of_hosts_has_a_section_for_each_and_the_verdicts_on_them() -> None:
    hosts = make_hosts(3, 31, slow={2: 1.2})
    hosts[1] = msgspec.structs.replace(hosts[1], warnings=["the governor is powersave"])
    text = results_markdown(make_cluster(hosts))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [*(f"## host node{n}" for n in range(3)), "## Hosts against their peers"]
    for host in hosts:
        assert results_markdown(host).rstrip() in text
    assert "**3 hosts, allowing 5%: 1 slower, 2 same**" in text


def test_hosts_that_measured_other_points_have_no_verdicts() -> None:
    hosts = [
        msgspec.structs.replace(make_host(f"node{n}", n), measurements=[make_measurement("flash", 128 << n)])
        for n in range(2)
    ]
    assert across_of(make_cluster(hosts)) is None
    assert "peers" not in results_markdown(make_cluster(hosts))


def test_a_file_of_one_machine_is_as_before() -> None:
    host: Results = make_host("node0", 0)
    assert across_of(host) is None
    assert str(host_line(host)) == "host node0"
    assert "node0" not in results_markdown(host)


@pytest.mark.parametrize("width", [80, 120])
def test_two_files_of_hosts_side_by_side(snapshot: SnapshotAssertion, width: int) -> None:
    old, new = make_hosts(3, 60), make_hosts(3, 60)
    new[1] = make_host("node1", 60_001, slower=1.2)
    new[2] = make_host("node2", 60_002, cores=1)
    found = compare_hosts(
        make_cluster([*old, make_host("gone", 1)]),
        make_cluster([*new, make_host("extra", 2)]),
        base_name="old.json",
        new_name="new.json",
        fail_over=0.05,
        force=False,
    )
    assert found.exit_code == 1
    assert rendered(compare_hosts_report(found), width=width) == snapshot


def test_too_few_rounds_are_said_once(snapshot: SnapshotAssertion) -> None:
    found = across_hosts([("nodes.json", make_cluster(make_hosts(8, 61, rounds=2)))])
    assert rendered(across_report(found)) == snapshot
