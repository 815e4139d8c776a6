"""An interrupted duel continues where it stopped, and only from its own results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import fake_engines

from flashbench.errors import ResultsError
from flashbench.results.record import Results
from flashbench.studies.duel import Contestant, DuelStudy, arena, fight
from flashbench.studies.progress import Progress
from flashbench.studies.runner import Interrupted
from flashbench.studies.study import Study

LENGTHS = [24, 25]
DUEL = DuelStudy(
    a=Contestant(engine="Slow"),
    b=Contestant(engine="Slower"),
    study=Study(engines=["Slow"], seq_lens=LENGTHS, repeats=1, threads=1, timeout_s=30.0),
    threshold=0.5,
    looks=1,
)


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engines.make_known(tmp_path, monkeypatch)
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Three rounds of a duel. The fourth was interrupted in its second problem."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("plugins")
        fake_engines.make_known(directory, patch)
        patch.setenv("FLASHBENCH_CACHE_DIR", str(directory / "cache"))
        timed = arena.Arena._time
        turns: list[str] = []

        def interrupted(ring: arena.Arena, row: Any, *, again: bool) -> None:
            turns.append(row.side)
            if len(turns) == 3 * 8 + 4 + 2:
                raise KeyboardInterrupt
            timed(ring, row, again=again)

        patch.setattr(arena.Arena, "_time", interrupted)
        kept: list[Results] = []
        with pytest.raises(Interrupted) as caught:
            fight(DUEL, command=[], on_results=kept.append)
        assert [[len(duel.orders) for duel in each.duels] for each in kept] == [[n, n] for n in (1, 2, 3)]
        return caught.value.results


def test_an_interrupted_round_is_no_crash_and_leaves_whole_rounds(cut: Results) -> None:
    assert not cut.complete
    assert [len(duel.orders) for duel in cut.duels] == [4, 3]
    for duel in cut.duels:
        for place in (duel.a, duel.b):
            time = cut.measurements[place].time
            assert time is not None
            assert [len(process) for process in time.samples_ns] == [2] * len(duel.orders)


def test_a_duel_that_was_cut_short_makes_the_rounds_that_are_missing(cut: Results) -> None:
    seen: list[Progress] = []
    results = fight(DUEL, command=[], earlier=cut, on_progress=seen.append)
    rounds = DUEL.rounds_per_look
    assert results.complete
    assert [step.done for step in seen] == list(range(3, rounds))
    for duel, before in zip(results.duels, cut.duels, strict=True):
        assert duel.looks == 1
        assert duel.orders[: len(before.orders)] == before.orders
        assert abs(Counter(duel.orders)["ab"] - rounds / 2) < 1  # balanced across the cut
        for place in (duel.a, duel.b):
            old, new = cut.measurements[place].time, results.measurements[place].time
            assert old is not None
            assert new is not None
            assert new.samples_ns[: len(old.samples_ns)] == old.samples_ns
            assert [len(process) for process in new.samples_ns] == [2] * rounds


def test_a_finished_duel_that_is_resumed_makes_no_round(
    cut: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = DUEL.rounds_per_look
    duels = [
        msgspec.structs.replace(duel, orders=["ab"] * 4, verdict="same", looks=1) for duel in cut.duels[:1]
    ]
    whole = msgspec.structs.replace(cut, duels=duels, complete=True)
    one = msgspec.structs.replace(
        DUEL, rounds=rounds, study=msgspec.structs.replace(DUEL.study, seq_lens=[24])
    )
    config = {**cut.config, **msgspec.to_builtins(one)}

    def told(*_: Any) -> None:
        raise AssertionError("a round began")

    monkeypatch.setattr(arena.Arena, "_round", told)
    results = fight(one, command=[], earlier=msgspec.structs.replace(whole, config=config))
    assert [duel.orders for duel in results.duels] == [["ab"] * 4]
    assert [duel.verdict for duel in results.duels] == ["same"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threshold": 0.4}, "of another study: threshold was 0.5, now it is 0.4"),
        ({"looks": 2}, "of another study: looks was 1, now it is 2"),
        ({"rounds": 20}, "of another study: rounds between looks was None, now it is 20"),
        ({"b": Contestant(engine="Right")}, "of another study: b was "),
        (
            {"study": msgspec.structs.replace(DUEL.study, seed=1)},
            "of another study: seed was 0, now it is 1",
        ),
    ],
)
def test_a_duel_of_other_settings_is_refused_by_name(cut: Results, changed: Any, said: str) -> None:
    with pytest.raises(ResultsError, match=said):
        fight(msgspec.structs.replace(DUEL, **changed), command=[], earlier=cut)


def test_rounds_of_another_version_are_refused(cut: Results) -> None:
    older = msgspec.structs.replace(cut.processes["b"], flashbench_version="0.0.1")
    earlier = msgspec.structs.replace(cut, processes={**cut.processes, "b": older})
    with pytest.raises(ResultsError, match=r"flashbench_version of side B was '0\.0\.1', now it is "):
        fight(DUEL, command=[], earlier=earlier)


def test_a_file_of_another_kind_is_refused(cut: Results) -> None:
    with pytest.raises(ResultsError, match="the file to go on with holds a profile, not a duel"):
        fight(DUEL, command=[], earlier=msgspec.structs.replace(cut, kind="profile"))
