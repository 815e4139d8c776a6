"""`flashbench compare --across hosts`, and every command that reads files of several hosts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest
from helpers.fake_hosts import inference_tests, make_cluster, make_host, make_hosts
from helpers.fake_results import make_results
from helpers.html_page import parse_page

from flashbench.results.record import Results
from flashbench.results.store import save


@pytest.fixture
def file(tmp_path: Path):
    """Write results under a name of their own."""
    written: list[Path] = []

    def write(results: Results) -> str:
        path = tmp_path / f"file{len(written)}.json"
        save(results, path)
        written.append(path)
        return str(path)

    return write


@pytest.mark.parametrize(("slower", "code"), [(1.0, 0), (1.1, 1)])
def test_the_exit_code_says_whether_a_host_is_slower(flashbench, file, slower: float, code: int) -> None:
    done = flashbench("compare", "--across", "hosts", file(make_cluster(make_hosts(8, 40, slow={3: slower}))))
    assert done.code == code
    assert done.out.rstrip().splitlines()[-1] == (
        "8 hosts, allowing 5%: 1 slower, 7 same" if code else "8 hosts, allowing 5%: 8 same"
    )


def test_files_of_one_host_each_are_compared_across(flashbench, file) -> None:
    names = [file(host) for host in make_hosts(4, 41, slow={0: 1.3})]
    done = flashbench("compare", *names, "--across", "hosts", "--fail-over", "10%")
    assert done.code == 1
    assert "4 hosts, allowing 10%: 1 slower, 3 same" in done.out
    assert flashbench("compare", *names, "--across", "hosts", "--fail-over", "50%").code == 0


def test_what_cannot_be_told_exits_with_3_and_bad_input_with_2(flashbench, file) -> None:
    hosts = make_hosts(3, 42, rounds=1)
    assert flashbench("compare", "--across", "hosts", file(make_cluster(hosts))).code == 3
    done = flashbench("compare", "--across", "hosts", file(hosts[0]))
    assert (done.code, "there is no other to compare it with" in done.err) == (3, True)
    done = flashbench("compare", "--across", "hosts", file(hosts[0]), file(hosts[0]))
    assert (done.code, "each host is compared once" in done.err) == (2, True)
    done = flashbench("compare", "--across", "engines", file(hosts[0]))
    assert (done.code, done.err) == (2, "error: --across takes hosts, not 'engines'\n")


def test_without_across_two_files_are_taken(flashbench, file) -> None:
    one = file(make_cluster(make_hosts(2, 43)))
    done = flashbench("compare", one)
    assert done.code == 2
    assert done.err == (
        "error: compare takes two files, BASE.json and NEW.json, not 1\n"
        "hint: --across hosts takes any number\n"
    )


def test_formats_and_github(flashbench, file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = file(make_cluster(make_hosts(8, 44, slow={2: 1.2})))
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = flashbench("compare", "--across", "hosts", name, "--format", "JSON")
    assert json.loads(done.out)["exit_code"] == 1
    assert "::error title=node2%3A slower::time 1.18x; slower in each of 4 rows, 1.18x to 1.19x\n" in done.err
    assert "**slower**" in summary.read_text()
    verdict = tmp_path / "verdict.json"
    done = flashbench("compare", "--across", "hosts", name, "--json", str(verdict), "--format", "markdown")
    assert json.loads(verdict.read_text())["nodes"][2]["verdict"] == "slower"
    assert (done.out, "| **slower** |" in done.err) == ("", True)


def test_two_files_of_hosts_are_compared_host_by_host(flashbench, file) -> None:
    old, new = make_hosts(4, 45), make_hosts(4, 46)
    new[1] = make_host("node1", 46_001, slower=1.3)
    new[3] = make_host("extra", 5)
    done = flashbench("compare", file(make_cluster(old)), file(make_cluster(new)))
    assert done.code == 1
    lines = done.out.splitlines()
    assert [line for line in lines if line.startswith("host ")] == ["host node0", "host node1", "host node2"]
    assert "only in base: node3" in lines
    assert "only in new: extra" in lines
    assert lines[-1].startswith("3 hosts, 12 compared, allowing 5%: 4 regressed, ")


def test_a_host_compares_with_its_own_file_and_p_is_adjusted_for_all_hosts(flashbench, file) -> None:
    old, new = make_hosts(3, 47), make_hosts(3, 48)
    whole = flashbench("compare", file(make_cluster(old)), file(make_cluster(new)), "--format", "json")
    one = flashbench("compare", file(make_cluster(old)), file(new[1]), "--format", "json")
    found, alone = json.loads(whole.out), json.loads(one.out)
    assert list(alone["hosts"]) == ["node1"]
    assert alone["only_in_base"] == ["node0", "node2"]
    of_all, of_one = (document["hosts"]["node1"]["pairs"] for document in (found, alone))
    assert [pair["p_value"] for pair in of_all] == [pair["p_value"] for pair in of_one]
    assert min(pair["p_holm"] for pair in of_all) > min(pair["p_holm"] for pair in of_one)


def test_a_host_that_is_not_comparable_does_not_keep_the_others(flashbench, file) -> None:
    old, new = make_hosts(3, 49), make_hosts(3, 49)
    new[2] = make_host("node2", 49_002, cores=1)
    names = file(make_cluster(old)), file(make_cluster(new))
    done = flashbench("compare", *names)
    assert done.code == 3
    assert "not compared: node2 of " in done.out
    assert "2 hosts, 8 compared" in done.out
    assert flashbench("compare", *names, "--force").code in (0, 3)
    new = [make_host("other", 1)]
    done = flashbench("compare", names[0], file(make_cluster(new)))
    assert (done.code, "have no host in common" in done.err) == (3, True)
    new = [make_host(f"node{number}", 1, cores=1) for number in range(3)]
    done = flashbench("compare", names[0], file(make_cluster(new)))
    assert done.code == 3
    assert done.err.endswith("not comparable: cores: 2 / 1\nhint: --force compares them all the same\n")


def test_host_by_host_in_github(flashbench, file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    old, new = make_hosts(2, 50), make_hosts(2, 50)
    new[1] = make_host("node1", 51, slower=1.5)
    done = flashbench("compare", file(make_cluster(old)), file(make_cluster(new)))
    errors = [line for line in done.out.splitlines() if line.startswith("::error")]
    assert len(errors) == 4
    assert errors[0].startswith("::error title=node1%3A regressed%3A flash/fwd/")
    assert "### host node1" in summary.read_text()


def test_csv_has_the_rows_of_every_host_and_other_formats_refuse(flashbench, file) -> None:
    hosts = make_hosts(3, 51)
    name = file(make_cluster(hosts))
    done = flashbench("export", name, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out, newline="")))
    assert [row["host"] for row in rows] == [f"node{number}" for number in range(3) for _ in range(4)]
    assert [float(row["median_ns"]) for row in rows] == [
        row.time.median_ns for host in hosts for row in host.measurements
    ]
    for format_ in ("bmf", "pyperf", "google-benchmark", "github-action-benchmark"):
        done = flashbench("export", name, "--format", format_)
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            f"error: {name} holds 3 hosts: {format_} has one entry for each measurement, and no place for "
            f"its host\nhint: each of its hosts is a results file: jq '.hosts[0]' {name} > one.json\n"
        )
    assert "### Hosts" not in flashbench("export", name, "--format", "markdown").err
    alone = file(make_cluster(hosts[:1]))
    assert flashbench("export", alone, "--format", "bmf").code == 0
    assert (
        flashbench("export", alone, "--format", "bmf").out
        == flashbench("export", file(hosts[0]), "--format", "bmf").out
    )


def test_files_of_whole_models_of_several_hosts(flashbench, file) -> None:
    hosts = make_hosts(3, 52, of=inference_tests(), slow={1: 1.2})
    name = file(make_cluster(hosts))
    assert flashbench("compare", "--across", "hosts", name).code == 1
    assert "## host node2" in flashbench("export", name, "--format", "markdown").out
    done = flashbench("export", name, "--format", "csv")
    assert (done.code, "holds tests of inference" in done.err) == (2, True)
    done = flashbench("duel", "sdpa", "flash", "--from", name)
    assert done.code == 2
    assert f"{name} holds 3 hosts: a duel pairs the rounds of one machine" in done.err


def test_the_page_has_each_host_and_the_verdicts(flashbench, file, tmp_path: Path) -> None:
    hosts = make_hosts(3, 53, slow={1: 1.2})
    outer = msgspec.structs.replace(make_cluster(hosts), warnings=["node9 was refused"])
    page = tmp_path / "page.html"
    done = flashbench("report", file(outer), "-o", str(page))
    assert done.out.endswith(", 12 measurements of 1 file\n")
    text = page.read_text(encoding="utf-8")
    assert "Hosts against their peers" in text
    assert "3 hosts, allowing 5%: 1 slower, 2 same." in text
    assert "node9 was refused" in text
    for number in range(3):
        assert f"node{number}: measured on Example CPU 9000" in text
    assert parse_page(text).one("h1").text == "file0"


def test_a_page_of_many_hosts_charts_those_that_stand_out(flashbench, file, tmp_path: Path) -> None:
    hosts = make_hosts(12, 54, slow={11: 1.3}, of=make_results([make_hosts(1, 0)[0].measurements[0]]))
    page = tmp_path / "page.html"
    assert flashbench("report", file(make_cluster(hosts)), "-o", str(page)).code == 0
    text = page.read_text(encoding="utf-8")
    assert "Words, ratios and charts are of 8 of them, those that stand out first;" in text
    charts = text[text.index('id="latency"') : text.index('id="memory"')]
    assert "flash \N{MIDDLE DOT} node11" in charts
    assert "flash \N{MIDDLE DOT} node6" in charts
    assert "flash \N{MIDDLE DOT} node7" not in charts
