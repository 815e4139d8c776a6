"""Which hosts are slower than their peers: found with noise, and nobody accused without reason."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from helpers.fake_hosts import inference_tests, make_cluster, make_host, make_hosts, training_steps
from helpers.fake_results import make_measurement, make_results
from helpers.report_files import make_duel
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbench.analysis.across_hosts import AcrossHosts, across_hosts
from flashbench.analysis.compare import IncomparableError
from flashbench.errors import ResultsError
from flashbench.results.record import Disturbance, Results
from flashbench.results.store import load

RUNS = 20


def judged(hosts: list[Results], **options) -> AcrossHosts:
    return across_hosts([("nodes.json", make_cluster(hosts))], **options)


def verdicts(across: AcrossHosts) -> dict[str, str]:
    return {node.host: node.verdict for node in across.nodes}


def accused(across: AcrossHosts) -> set[str]:
    return {node.host for node in across.nodes if node.verdict in ("slower", "failed")}


def same_but(count: int, **others: str) -> dict[str, str]:
    return {f"node{number}": "same" for number in range(count)} | others


@pytest.mark.parametrize("seed", range(RUNS))
def test_of_eight_hosts_the_one_slowed_by_10_percent_is_found_and_no_other(seed: int) -> None:
    slow = seed % 8
    across = judged(make_hosts(8, seed, slow={slow: 1.1}))
    assert accused(across) == {f"node{slow}"}
    node = across.nodes[slow]
    assert node.time is not None
    assert node.time.p_holm < 1e-5
    assert across.exit_code == 1


@pytest.mark.parametrize("seed", range(RUNS))
def test_of_eight_equal_hosts_none_is_accused(seed: int) -> None:
    across = judged(make_hosts(8, seed + 100))
    assert accused(across) == set()
    assert list(verdicts(across).values()).count("same") >= 7  # one may be too noisy to tell


def test_two_slow_hosts_of_eight_do_not_hide_each_other() -> None:
    across = judged(make_hosts(8, 1, slow={2: 1.1, 5: 1.3}))
    assert verdicts(across) == same_but(8, node2="slower", node5="slower")


def test_a_fast_host_among_three_makes_no_other_slow() -> None:
    assert verdicts(judged(make_hosts(3, 2, slow={0: 0.8}))) == same_but(3, node0="faster")


def test_a_threshold_above_the_difference_finds_none() -> None:
    assert judged(make_hosts(8, 3, slow={4: 1.1}), fail_over=0.2).exit_code == 0


def test_low_bandwidth_is_found_where_times_are_the_same() -> None:
    hosts = make_hosts(8, 4)
    hosts[6] = make_host("node6", 99, read_bandwidth_gbps=15.0, others_cores=1.5)
    across = judged(hosts)
    assert verdicts(across) == same_but(8, node6="slower")
    node = across.nodes[6]
    assert node.time is not None
    assert node.time.verdict == "same"
    (low,) = [limit for limit in node.limits if limit.verdict != "same"]
    assert (low.name, low.value) == ("read bandwidth", 15.0)
    assert low.ratio == pytest.approx(0.75, abs=0.02)
    assert node.reasons == ["other processes kept 1.5 cores busy: measure again when it is quiet"]


def test_one_figure_of_few_or_unlike_hosts_cannot_be_told() -> None:
    """One figure has no test: the peers' spread stands in for it, and two peers have none."""
    few = make_hosts(3, 5)
    few[1] = make_host("node1", 98, read_bandwidth_gbps=15.0)
    assert verdicts(judged(few)) == same_but(3, node1="cannot be told")
    unlike = [
        make_host(f"node{number}", 50 + number, read_bandwidth_gbps=gbps)
        for number, gbps in enumerate((20.0, 16.0, 23.0, 19.0, 14.0))
    ]
    across = judged(unlike)
    assert set(verdicts(across).values()) == {"same", "cannot be told"}
    assert verdicts(across)["node4"] == "cannot be told"
    assert across.exit_code == 3


def test_files_of_machines_alone_are_judged_by_their_limits() -> None:
    hosts = [
        make_host(f"node{number}", number, of=make_results([], kind="machine"), read_bandwidth_gbps=gbps)
        for number, gbps in enumerate((20.0, 20.1, 19.9, 20.2, 10.0))
    ]
    assert verdicts(judged(hosts)) == same_but(5, node4="slower")


def test_a_single_slow_row_is_found_and_named() -> None:
    """Four rows hide a quarter of a difference: 15 % slower in one row are 4 % in all."""
    hosts = make_hosts(8, 6)
    hosts[3] = make_host("node3", 97, slower_rows={1: 1.15})
    across = judged(hosts)
    assert verdicts(across) == same_but(8, node3="slower")
    node = across.nodes[3]
    assert node.time is not None
    assert node.time.verdict != "slower"
    (finding,) = node.findings
    assert (finding.place, finding.title.partition(",")[0]) == ("2048", "flash")
    assert finding.time is not None
    assert finding.time.ratio == pytest.approx(1.15, abs=0.05)


def test_more_memory_is_slower_and_needs_no_test() -> None:
    hosts = make_hosts(4, 7)
    row = hosts[2].measurements[3]
    assert row.memory is not None
    more = msgspec.structs.replace(
        row.memory, workspace_peak_bytes=round(1.2 * row.memory.workspace_peak_bytes)
    )
    rows = [*hosts[2].measurements[:3], msgspec.structs.replace(row, memory=more)]
    hosts[2] = msgspec.structs.replace(hosts[2], measurements=rows)
    across = judged(hosts)
    assert verdicts(across) == same_but(4, node2="slower")
    assert [round(one.memory_ratio or 0, 2) for one in across.nodes[2].findings] == [1.2]
    assert across.nodes[0].memory_ratio == 1.0


def test_a_row_that_fails_on_one_host_is_a_finding_and_the_others_still_judge_it() -> None:
    hosts = make_hosts(8, 8)
    crashed = make_measurement("flash", 2048, status="crashed", reason="killed by signal 11")
    rows = [hosts[5].measurements[0], crashed, *hosts[5].measurements[2:]]
    hosts[5] = msgspec.structs.replace(hosts[5], measurements=rows)
    across = judged(hosts)
    assert verdicts(across) == same_but(8, node5="failed")
    (finding,) = across.nodes[5].findings
    assert (finding.place, finding.failure) == ("2048", "crashed: killed by signal 11")
    assert (across.nodes[5].rows, across.nodes[4].rows) == (3, 4)
    assert across.exit_code == 4
    everywhere = [
        msgspec.structs.replace(host, measurements=[*host.measurements[:1], crashed]) for host in hosts
    ]
    assert accused(judged(everywhere)) == set()


def test_hosts_of_two_cpu_models_are_not_compared_with_each_other() -> None:
    fast = [make_host(f"fast{number}", number, cpu="Fast CPU") for number in range(4)]
    slow = [make_host(f"slow{number}", 10 + number, slower=2.0, cpu="Slow CPU") for number in range(4)]
    slow[1] = make_host("slow1", 11, slower=2.25, cpu="Slow CPU")
    across = judged([*fast, *slow])
    found = {node.host for node in across.nodes if node.verdict == "slower"}
    assert found == {"slow1"}
    assert {(node.cpu, node.peers) for node in across.nodes} == {("Fast CPU", 3), ("Slow CPU", 3)}


def test_a_host_without_a_peer_of_its_cpu_cannot_be_told() -> None:
    across = judged([*make_hosts(4, 9), make_host("other", 9, cpu="Other CPU")])
    assert verdicts(across) == same_but(4, other="cannot be told")
    assert across.nodes[4].reasons == ["no other host has its CPU"]
    assert across.exit_code == 3


def test_of_two_hosts_the_slow_one_is_slower_and_the_other_is_not() -> None:
    across = judged(make_hosts(2, 10, slow={1: 1.1}))
    assert verdicts(across) == {"node0": "faster", "node1": "slower"}
    assert verdicts(judged(make_hosts(2, 11))) == same_but(2)


@pytest.mark.parametrize(("hosts", "rounds", "needed"), [(8, 1, 3), (2, 4, 5), (64, 1, 2)])
def test_too_few_rounds_exclude_no_chance_and_the_remark_says_how_many_can(
    hosts: int, rounds: int, needed: int
) -> None:
    def across(rounds: int) -> AcrossHosts:
        row = make_results([make_measurement("flash", 512)])
        return judged(make_hosts(hosts, 12, slow={1: 1.3}, rounds=rounds, of=row))

    short = across(rounds)
    assert set(verdicts(short).values()) == {"cannot be told"}
    (remark,) = [line for line in short.remarks if "cannot exclude chance" in line]
    assert remark.endswith(f"measure with --rounds {needed} or more")
    assert verdicts(across(needed))["node1"] == "slower"


def test_where_rounds_are_too_few_for_single_rows_alone_a_remark_says_so() -> None:
    across = judged(make_hosts(2, 13, slow={1: 1.3}, rounds=5))
    assert verdicts(across)["node1"] == "slower"
    assert [line for line in across.remarks if "single rows" in line] == [
        "5 rounds of 2 peers cannot tell single rows, of which 8 are tested: --rounds 6 can"
    ]


@pytest.mark.parametrize("work", [training_steps, inference_tests])
def test_files_of_whole_models_are_judged_too(work: Callable[[], Results]) -> None:
    across = judged(make_hosts(5, 14, slow={0: 1.12}, of=work()))
    assert verdicts(across) == same_but(5, node0="slower")
    assert {node.rows for node in across.nodes} == {len(work().rows)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"governor": "powersave"}, "governor: powersave, most have performance"),
        ({"cores": 1}, "cores: 1, most have 2"),
        ({"cpu_quota": 1.5}, "cpu_quota: 1.5, most have none"),
        ({"isa": "avx2"}, "isa: avx2, most have avx512"),
    ],
)
def test_hosts_with_other_settings_are_no_peers_and_force_overrules(changes: dict, said: str) -> None:
    hosts = [*make_hosts(4, 15), make_host("other", 15, slower=1.2, **changes)]
    across = judged(hosts)
    assert verdicts(across) == same_but(4, other="cannot be told")
    assert across.nodes[4].reasons == [f"no other host has its CPU and its settings ({said})"]
    forced = judged(hosts, force=True)
    assert verdicts(forced) == same_but(4, other="slower")
    assert f"other: {said}: peers by --force" in forced.remarks


def test_another_flashbench_is_another_setting_and_another_library_is_a_remark() -> None:
    hosts = make_hosts(5, 16)
    hosts[1] = msgspec.structs.replace(hosts[1], flashbench_version="0.2.0")
    machine = msgspec.structs.replace(
        hosts[2].machine, libraries={"numpy": "2.1.0"}, memory_bytes=8 * 1024**3
    )
    hosts[2] = msgspec.structs.replace(hosts[2], machine=machine)
    across = judged(hosts)
    assert verdicts(across) == same_but(5, node1="cannot be told")
    assert across.remarks == [
        "node2: memory 8 GiB, most have 16 GiB",
        "node2: numpy 2.1.0, most have 2.0.0",
    ]


def test_two_hosts_with_other_settings_are_compared_with_each_other_alone() -> None:
    slow = [make_host(f"saving{number}", number, slower=1.3, governor="powersave") for number in range(2)]
    across = judged([*make_hosts(4, 17), *slow])
    assert verdicts(across) == same_but(4, saving0="same", saving1="same")
    assert across.remarks[0] == (
        "saving0, saving1: governor: powersave, most have performance: compared with each other alone"
    )


def test_what_else_ran_on_a_slow_host_is_said() -> None:
    hosts = make_hosts(4, 18, slow={3: 1.2})
    busy = Disturbance(moved=0.1, others_cores=0.92, steal_percent=4.0)
    rows = [msgspec.structs.replace(row, disturbance=busy) for row in hosts[3].measurements]
    hosts[3] = msgspec.structs.replace(hosts[3], measurements=rows, complete=False)
    across = judged(hosts)
    assert across.nodes[3].reasons == [
        "other processes kept 0.9 cores busy and the hypervisor gave 4 % of CPU time to other "
        "guests: measure again when it is quiet"
    ]
    assert across.remarks == ["node3 is unfinished: it is judged by the rows that it has"]


def test_files_of_one_host_and_of_several_go_together() -> None:
    hosts = make_hosts(6, 19, slow={5: 1.1})
    files = [("nodes.json", make_cluster(hosts[:4])), ("five.json", hosts[4]), ("six.json", hosts[5])]
    across = across_hosts(files)
    assert verdicts(across) == same_but(6, node5="slower")
    assert [node.file for node in across.nodes] == ["nodes.json"] * 4 + ["five.json", "six.json"]
    assert across.nodes == judged_nodes_of(across, hosts)


def judged_nodes_of(across: AcrossHosts, hosts: list[Results]) -> list:
    """The nodes of one file of all hosts, with the files' names of the other comparison."""
    together = judged(hosts).nodes
    return [
        msgspec.structs.replace(node, file=other.file)
        for node, other in zip(together, across.nodes, strict=True)
    ]


def test_a_host_that_is_there_twice_is_refused() -> None:
    host = make_host("node0", 0)
    with pytest.raises(ResultsError, match=r"host 'node0' is in a\.json and again in b\.json"):
        across_hosts([("a.json", host), ("b.json", host)])


def test_one_host_and_hosts_that_measured_other_points_are_refused() -> None:
    with pytest.raises(IncomparableError, match=r"a\.json holds one host, node0: there is no other"):
        across_hosts([("a.json", make_host("node0", 0))])
    hosts = [
        make_host(f"node{number}", number, of=make_results([make_measurement("flash", n)]))
        for number, n in enumerate((512, 1024))
    ]
    with pytest.raises(IncomparableError, match="no two of 2 hosts have a row in common"):
        judged(hosts)


def test_documented_figures_are_of_no_host(repository) -> None:
    documented = load(repository / "results" / "documented.json")
    with pytest.raises(ResultsError, match="documented figures, which are of no host"):
        across_hosts([("documented.json", documented), ("a.json", make_host("node0", 0))])


def test_the_sides_of_a_duel_are_rows_of_their_own() -> None:
    hosts = make_hosts(4, 20, of=make_duel(), slow={2: 1.2})
    assert verdicts(judged(hosts)) == same_but(4, node2="slower")


@given(
    st.lists(st.floats(0.5, 2.0), min_size=3, max_size=6),
    st.integers(0, 10**6),
    st.floats(1.0, 100.0),
)
@settings(max_examples=25)
def test_the_order_of_hosts_and_the_unit_of_time_change_no_verdict(
    factors: list[float], seed: int, unit: float
) -> None:
    hosts = [make_host(f"node{n}", seed + n, slower=factor) for n, factor in enumerate(factors)]
    scaled = [make_host(f"node{n}", seed + n, slower=factor * unit) for n, factor in enumerate(factors)]
    expected = verdicts(judged(hosts))
    assert verdicts(judged(hosts[::-1])) == expected
    assert verdicts(judged(scaled)) == expected


@given(st.integers(3, 9), st.integers(0, 10**6), st.data())
@settings(max_examples=25)
def test_fewer_slow_hosts_than_half_accuse_no_other(count: int, seed: int, data: st.DataObject) -> None:
    """Up to a quarter are found too. More hide each other from the test, and take more rounds."""
    slow = data.draw(st.sets(st.integers(0, count - 1), max_size=(count - 1) // 2))
    hosts = make_hosts(count, seed, slow=dict.fromkeys(slow, 1.5))
    across = judged(hosts)
    found = accused(across)
    expected = {f"node{number}" for number in slow}
    assert found <= expected
    assert len(slow) > max(1, count // 4) or found == expected
    assert all(verdicts(across)[host] != "same" for host in expected)


def test_a_host_that_measured_in_several_tasks_is_one_host() -> None:
    hosts = make_hosts(4, 21, slow={1: 1.2})
    tasks = [
        msgspec.structs.replace(host, measurements=host.measurements[part::2])
        for part in range(2)
        for host in hosts
    ]
    split, whole = judged(tasks), judged(hosts)
    assert verdicts(split) == verdicts(whole) == same_but(4, node1="slower")
    assert [node.rows for node in split.nodes] == [4] * 4
