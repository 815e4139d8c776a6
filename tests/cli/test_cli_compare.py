"""`flashbench compare` from its options to its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from helpers.fake_results import MACHINE, make_measurement, make_results

from flashbench.results.store import save


@pytest.fixture
def files(tmp_path: Path):
    """Files of one measurement, the new one slower by a factor."""

    def write(slower: float = 1.0, **machine) -> tuple[str, str]:
        base, new = tmp_path / "old.json", tmp_path / "new.json"
        save(make_results([make_measurement("flash", 1024)]), base)
        other = msgspec.structs.replace(MACHINE, **machine)
        save(make_results([make_measurement("flash", 1024, slower=slower)], machine=other), new)
        return str(base), str(new)

    return write


@pytest.mark.parametrize(("slower", "code"), [(1.0, 0), (0.8, 0), (1.2, 1), (1.06, 3)])
def test_the_exit_code_is_the_verdict(flashbench, files, slower: float, code: int) -> None:
    assert flashbench("compare", *files(slower)).code == code


@pytest.mark.parametrize(("share", "code"), [("5%", 1), ("0.05", 1), ("30%", 0), (".3", 0), ("0", 1)])
def test_fail_over_takes_a_share(flashbench, files, share: str, code: int) -> None:
    assert flashbench("compare", *files(1.2), "--fail-over", share).code == code


@pytest.mark.parametrize("share", ["5", "-5%", "much", "", "%", "nan"])
def test_a_share_that_is_none_is_refused(flashbench, files, share: str) -> None:
    done = flashbench("compare", *files(), "--fail-over", share)
    assert done.code == 2
    assert done.err == f"error: --fail-over takes a share such as 5% or 0.05, not {share!r}\n"


def test_unlike_machines_exit_with_3_and_force_overrules(flashbench, files) -> None:
    names = files(1.0, cpu="Other CPU")
    done = flashbench("compare", *names)
    assert done.code == 3
    assert "not comparable: cpu: Example CPU 9000 @ 3.00GHz / Other CPU" in done.err
    shown = f"flashbench report {' '.join(names)} shows them side by side"
    assert done.err.endswith(f"hint: {shown}; --force compares them all the same\n")
    forced = flashbench("compare", *names, "--force")
    assert forced.code == 0
    assert "not comparable: cpu: " in forced.out


def test_formats(flashbench, files) -> None:
    names = files(1.2)
    assert "Verdict" in flashbench("compare", *names).out
    assert "| **regressed** |" in flashbench("compare", *names, "--format", "markdown").out
    document = json.loads(flashbench("compare", *names, "--format", "json").out)
    assert document["exit_code"] == 1
    done = flashbench("compare", *names, "--format", "xml")
    assert done.code == 2
    assert done.err == "error: --format takes table, markdown or json, not 'xml'\n"


def test_json_goes_where_asked_and_the_table_to_stderr(flashbench, files, tmp_path: Path) -> None:
    names = files()
    done = flashbench("compare", *names, "--json", "-")
    assert json.loads(done.out)["pairs"]
    assert "Verdict" in done.err
    done = flashbench("compare", *names, "--json", str(tmp_path / "verdict.json"))
    assert done.out == ""
    assert json.loads((tmp_path / "verdict.json").read_text())["pairs"]


@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_file_is_named_on_either_side(flashbench, files, tmp_path: Path, place: int) -> None:
    names = list(files())
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema_version": 3}')
    names[place] = str(bad)
    done = flashbench("compare", *names)
    assert done.code == 2
    assert done.err.startswith(f"error: {bad} was written by a newer flashbench: schema_version 3")


def test_documented_beside_measured(flashbench, tmp_path: Path, repository: Path) -> None:
    mine = tmp_path / "mine.json"
    save(make_results(), mine)
    documented = str(repository / "results" / "documented.json")
    assert flashbench("compare", documented, str(mine)).code == 3
    done = flashbench("compare", documented, str(mine), "--force")
    assert done.code == 3
    assert "\n128, 512, 1024, 2048, 4096: inconclusive: no samples\n" in done.out
    assert "120.45" in done.out


def test_in_github_actions_a_regression_is_an_error_and_the_table_in_the_summary(
    flashbench, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    names = files(1.2)
    done = flashbench("compare", *names)
    (line,) = [line for line in done.out.splitlines() if line.startswith("::")]
    assert line.startswith("::error title=regressed%3A flash/fwd/N%3A1024/")
    assert line.endswith("::time 1.20x, memory 1.00x")
    assert "**regressed**" in summary.read_text()
    machine_readable = flashbench("compare", *names, "--format", "json")
    assert json.loads(machine_readable.out)["exit_code"] == 1
    assert "::error" in machine_readable.err


def test_in_github_actions_a_file_s_texts_command_nothing(
    flashbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull request's file is a stranger's. Its reason is so long that the table breaks it at `::error`."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    row = make_measurement("flash", 64)
    worse = msgspec.structs.replace(row, status="crashed", reason="REASON", time=None)
    reason = json.dumps(f"{'x' * 78}\n::error::pwned ##[error]pwned")[1:-1]
    base, new = tmp_path / "base.json", tmp_path / "new\n::error::name.json"
    save(make_results([row]), base)
    save(make_results([worse]), new)
    new.write_text(new.read_text().replace("REASON", reason))
    outcome = flashbench("compare", str(base), str(new))
    written = (outcome.out + outcome.err).splitlines()
    commands = [line for line in written if line.lstrip().startswith("::") or "##[" in line]
    assert outcome.code == 4
    assert len(commands) == 1
    assert commands[0].startswith("::error title=failed")
    summary = (tmp_path / "summary.md").read_text().splitlines()
    assert not [line for line in summary if line.lstrip().startswith("::") or "##[" in line]
