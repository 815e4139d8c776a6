"""Real duels of fake engines: winners, records, and failures."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import fake_engines, plugins

from flashbench.errors import ConfigError, EngineError
from flashbench.results.record import Results
from flashbench.studies.duel import Contestant, DuelStudy, arena, exit_code, fight, floor_of
from flashbench.studies.noise_floor import keep_floor, known_floor
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.progress import Progress
from flashbench.studies.runner import Interrupted
from flashbench.studies.study import Study


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engines.make_known(tmp_path, monkeypatch)
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", str(tmp_path / "cache"))


def duel(
    a: str, b: str, *, python_b: str | None = None, lengths: tuple[int, ...] = (24,), **settings: Any
) -> DuelStudy:
    study = Study(engines=[a], seq_lens=list(lengths), repeats=2, threads=1, timeout_s=30.0)
    sides = {"a": Contestant(engine=a), "b": Contestant(engine=b, python=python_b)}
    return DuelStudy(**{**sides, "study": study, "threshold": 0.5, **settings})


def fought(study: DuelStudy, **options: Any) -> Results:
    return fight(study, command=["flashbench", "duel"], **options)


def test_the_slower_side_loses_by_its_ratio() -> None:
    results = fought(duel("Slow", "Slower"))
    (found,) = results.duels
    assert found.verdict == "a_faster"
    assert exit_code(results) == 1
    assert found.ratio == pytest.approx(2, rel=0.2)
    # A machine under load may need further looks.
    assert len(found.orders) == 7 * found.looks
    assert found.p_value == found.p_holm
    assert found.p_value is not None
    assert found.p_value <= 0.05 / 3
    assert [row.side for row in results.measurements] == ["a", "b"]
    for row in results.measurements:
        assert row.status == "ok"
        assert row.accuracy is not None
        assert row.time is not None
        # A process has two bursts of two calls.
        assert [len(process) for process in row.time.samples_ns] == [4] * len(found.orders)
    assert set(results.processes) == {"a", "b"}
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results


def test_the_other_way_round_b_is_faster() -> None:
    results = fought(duel("Slower", "Slow"))
    assert [found.verdict for found in results.duels] == ["b_faster"]
    assert exit_code(results) == 0


@pytest.mark.grid
def test_many_problems_are_fought_in_the_same_processes_and_adjusted_for() -> None:
    results = fought(duel("Slow", "Slower", lengths=(24, 25, 26)))
    assert [found.verdict for found in results.duels] == ["a_faster"] * 3
    assert [(found.a, found.b) for found in results.duels] == [(0, 1), (2, 3), (4, 5)]
    for found in results.duels:
        assert len(found.orders) == 9 * found.looks
        assert found.p_value is not None
        assert found.p_holm is not None
        assert found.p_value < found.p_holm <= 0.05 / 3


@pytest.mark.grid
def test_a_duel_with_itself_goes_to_the_end_and_gives_a_floor() -> None:
    results = fought(duel("Slow", "Slow"), to_the_end=True)
    (found,) = results.duels
    assert len(found.orders) == 3 * 7
    assert found.looks == 1  # the earlier ones were not used, so their share of the error is not spent
    floor = floor_of(results)
    assert found.low is not None
    assert found.high is not None
    assert floor.floor == max(1 / found.low, found.high) - 1
    assert floor.rounds == 21


def test_orders_are_random_but_balanced() -> None:
    ring = arena.Arena(duel("Slow", "Slow"), 1, lambda _: None)
    orders = [tuple(ring._orders(8)) for _ in range(50)]
    assert all(Counter(order) == {"ab": 4, "ba": 4} for order in orders)
    assert len(set(orders)) > 5
    assert all(abs(Counter(tuple(ring._orders(7)))["ab"] - 3.5) < 1 for _ in range(20))


def test_the_leader_has_the_first_and_the_last_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    timed = arena.Arena._time

    def noted(ring: arena.Arena, row: Any, *, again: bool) -> None:
        turns.append(row.side)
        timed(ring, row, again=again)

    monkeypatch.setattr(arena.Arena, "_time", noted)
    results = fought(duel("Slow", "Slower"))
    expected = "".join("abba" if order == "ab" else "baab" for order in results.duels[0].orders)
    assert "".join(turns) == expected


@pytest.mark.parametrize(
    ("a", "b", "verdict", "reason"),
    [
        ("Slow", "Wrong", "failed", "B wrong"),
        ("Slow", "Hanging", "failed", "B timeout"),
        ("Segfaulting", "Slow", "failed", "A crashed"),
    ],
)
def test_a_side_that_fails_ends_its_match_without_a_winner(a: str, b: str, verdict: str, reason: str) -> None:
    study = duel(a, b)
    results = fought(
        msgspec.structs.replace(study, study=msgspec.structs.replace(study.study, timeout_s=2.0))
    )
    (found,) = results.duels
    assert (found.verdict, found.reason) == (verdict, reason)
    assert len(found.orders) == 1
    assert exit_code(results) == (3 if results.measurements[found.b].status == "ok" else 4)


@pytest.fixture
def _nothing_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: Any, **__: Any) -> None:
        raise AssertionError("a round began")

    monkeypatch.setattr(arena.Arena, "_round", told)


@pytest.mark.usefixtures("_nothing_timed")
@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("Slow", "Nope", "unknown engine 'Nope'; known: flash, "),
        ("Nope", "Slow", "unknown engine 'Nope'; known: flash, "),
        ("Slow", "import-error", "engine 'import-error' of made_up_0:E does not load: ModuleNotFoundError: "),
        ("exits-hard", "Slow", "engine 'exits-hard' is broken: left with exit code 0x7 in its first call"),
    ],
)
def test_an_engine_that_is_not_there_is_refused_before_the_first_round(
    tmp_path: Path, a: str, b: str, said: str
) -> None:
    plugins.install(tmp_path, {name: plugins.BROKEN[name] for name in ("import-error", "exits-hard")})
    with pytest.raises(EngineError) as caught:
        fought(duel(a, b))
    assert str(caught.value).startswith(said)


@pytest.mark.usefixtures("_nothing_timed")
def test_an_engine_has_less_time_to_load_than_a_burst_may_take(tmp_path: Path) -> None:
    plugins.install(tmp_path, {"hangs": plugins.BROKEN["hangs"]})
    asked = duel("hangs", "Slow", load_timeout_s=0.5)
    assert asked.study.timeout_s == 30.0
    with pytest.raises(EngineError, match=r"'hangs' is broken: no answer after 0\.5 s in its first call"):
        fought(asked)


@pytest.mark.usefixtures("_nothing_timed")
def test_a_duel_that_no_side_can_fight_is_refused_before_the_first_round() -> None:
    with pytest.raises(NothingToMeasureError) as caught:
        fought(duel("Slow", "Unsupporting"))
    assert str(caught.value) == ("nothing can be measured: Unsupporting: seqlen_q must be odd, not 24")
    assert caught.value.exit_code == 2


def test_what_a_side_does_not_support_is_told_beside_what_is_fought() -> None:
    study = duel("Plain", "Slow", threshold=1.0)
    study = msgspec.structs.replace(study, study=msgspec.structs.replace(study.study, windows=[4, "none"]))
    results = fought(study)
    unsupported, fair = results.duels
    assert (unsupported.verdict, unsupported.reason, unsupported.orders) == (
        "failed",
        "A unsupported, B unsupported",
        [],
    )
    assert fair.verdict == "a_faster"
    assert exit_code(results) == 1
    assert results.measurements[unsupported.a].reason == "the engine has no window"


@pytest.mark.usefixtures("_nothing_timed")
def test_sides_that_do_not_fit_into_memory_together_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "available_memory_bytes", lambda: 100_000)
    with pytest.raises(
        NothingToMeasureError, match=r"both sides need 387\.0 KiB, this machine has 97\.7 KiB free"
    ):
        fought(duel("Slow", "Slower", lengths=(64,)))


@pytest.mark.grid
def test_a_threshold_below_the_known_floor_is_refused_with_the_floor() -> None:
    keep_floor(floor_of(fought(duel("Slow", "Slow", threshold=5.0), to_the_end=True)))
    low = duel("Slow", "Slower", threshold=1e-9)
    with pytest.raises(
        ConfigError, match=r"--threshold 1e-07% is below this machine's noise floor of "
    ) as caught:
        fought(low)
    assert caught.value.hint is not None
    assert "flashbench duel Slow --aa --seq-lens 24" in caught.value.hint
    # No noise floor is known for another problem.
    assert fought(duel("Slow", "Slower", lengths=(32,), threshold=1e-9)).duels[0].verdict == "a_faster"


@pytest.mark.grid
def test_floors_are_kept_by_problem_and_a_damaged_file_is_measured_anew(tmp_path: Path) -> None:
    floor = floor_of(fought(duel("Slow", "Slow"), to_the_end=True))
    about = (floor.cpu, floor.threads, floor.problem, floor.direction)
    assert known_floor(*about) is None
    keep_floor(floor)
    keep_floor(msgspec.structs.replace(floor, cpu="Another CPU", floor=0.5))
    assert known_floor(*about) == floor
    keep_floor(msgspec.structs.replace(floor, floor=0.25))
    known = known_floor(*about)
    assert known is not None
    assert known.floor == 0.25
    other = known_floor("Another CPU", *about[1:])
    assert other is not None
    for content in (b"", b"[]", b'{"version": 9, "floors": []}', b"\xff"):
        (tmp_path / "cache" / "noise-floor.json").write_bytes(content)
        assert known_floor(*about) is None


def interpreter(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for an interpreter")
def test_sides_may_live_in_environments_of_their_own(tmp_path: Path, repository: Path) -> None:
    # The other checkout: the same code, except that its engine Slow is slower.
    other = tmp_path / "other"
    other.mkdir()
    fake_engines.install(other)
    source = Path(fake_engines.__file__).read_text().replace("seconds = 0.004", "seconds = 0.016")
    shutil.copytree(Path(fake_engines.__file__).parent, other / "helpers")
    (other / "helpers" / "fake_engines.py").write_text(source)
    python = interpreter(
        tmp_path / "python", f'PYTHONPATH="{other}:{repository}" exec "{sys.executable}" "$@"'
    )
    results = fought(duel("Slow", "Slow", python_b=python))
    (found,) = results.duels
    assert found.verdict == "regressed"
    assert found.ratio == pytest.approx(4, rel=0.25)
    assert results.config["b"]["python"] == python


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for an interpreter")
def test_an_engine_may_be_known_in_the_other_environment_alone(tmp_path: Path, repository: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    fake_engines.install(other)
    points = other / "fake_engines-1.0.dist-info" / "entry_points.txt"
    points.write_text("[flashbench.engines]\nElsewhere = helpers.fake_engines:Slow\n")
    paths = f"{other}:{Path(fake_engines.__file__).parents[1]}:{repository}"
    python = interpreter(tmp_path / "python", f'PYTHONPATH="{paths}" exec "{sys.executable}" "$@"')
    results = fought(duel("Slower", "Elsewhere", python_b=python))
    assert [found.verdict for found in results.duels] == ["b_faster"]
    with pytest.raises(EngineError) as caught:  # where Slower is not known
        fought(duel("Slow", "Slower", python_b=python))
    assert str(caught.value).startswith(f"--python-b {python}: unknown engine 'Slower'; known: flash, ")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for an interpreter")
def test_an_environment_that_cannot_serve_is_named(tmp_path: Path) -> None:
    def refused(python: str) -> EngineError:
        with pytest.raises(EngineError) as caught:
            fought(duel("Slow", "Slow", python_b=python))
        return caught.value

    missing = refused(str(tmp_path / "nothing"))
    assert str(missing) == f"--python-b {tmp_path / 'nothing'} cannot be started: No such file or directory"
    bare = interpreter(tmp_path / "bare", f'exec "{sys.executable}" -S -E "$@"')
    assert "No module named" in str(refused(bare))
    assert refused(bare).hint == f"{bare} -m pip install flashbench"
    old = tmp_path / "old" / "flashbench" / "measure"
    old.mkdir(parents=True)
    for package in (old, old.parent):
        (package / "__init__.py").write_text("")
    answer = '{"status": "ok", "data": {"protocol": 1}}'
    (old / "child.py").write_text(
        f"def main(parent):\n    print('{answer}', flush=True)\n    input()\n    input()\n"
    )
    script = interpreter(tmp_path / "python", f'PYTHONPATH="{tmp_path / "old"}" exec "{sys.executable}" "$@"')
    assert "its flashbench speaks protocol 1, this one 2" in str(refused(script))


def test_an_interrupted_duel_returns_the_rounds_so_far() -> None:
    def interrupt(step: Progress) -> None:
        if step.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        fought(duel("Slow", "Slower"), on_progress=interrupt)
    results = caught.value.results
    assert not results.complete
    assert [len(found.orders) for found in results.duels] == [3]


def test_progress_tells_rounds_and_what_is_left_at_most() -> None:
    seen: list[Progress] = []
    fought(duel("Slow", "Slower", looks=1), on_progress=seen.append)
    assert [step.done for step in seen] == list(range(7))
    assert {step.total for step in seen} == {7}
    assert seen[0].left_s is None
    assert seen[-1].label == "round 7, look 1 of 1"
    assert all(step.left_s for step in seen[1:])
