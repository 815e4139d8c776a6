"""Results as Markdown, of made-up figures."""

from __future__ import annotations

import re

import msgspec
import pytest
from helpers.fake_exports import make_duel, small_profile, with_failures
from helpers.fake_results import make_measurement, make_results
from helpers.fake_training import every_kind
from syrupy.assertion import SnapshotAssertion

from flashbench.report.escapes import escape_markdown
from flashbench.report.grid import Grid
from flashbench.report.markdown import results_markdown
from flashbench.report.tones import NOTHING, Cell, Tone
from flashbench.results.record import Results

FILES = {
    "documented": make_results,
    "small profile": small_profile,
    "failures": with_failures,
    "duel": make_duel,
    "training": every_kind,
}


@pytest.mark.parametrize("file", FILES)
def test_golden(file: str, snapshot: SnapshotAssertion) -> None:
    assert results_markdown(FILES[file]()) == snapshot


@pytest.mark.parametrize("file", FILES)
def test_every_table_is_one_for_github(file: str) -> None:
    """GFM: a blank line before, a delimiter row, and as many cells in each row as in the header."""
    for block in results_markdown(FILES[file]()).split("\n\n"):
        lines = block.splitlines()
        if not lines[0].startswith("| "):
            assert not any(line.startswith("|") for line in lines)
            continue
        assert re.fullmatch(r"\|( :?--:? \|)+", lines[1])
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_a_title_is_a_heading() -> None:
    results = msgspec.structs.replace(make_results(), config={"title": "Causal | *long*"})
    assert results_markdown(results).startswith("### Causal \\| \\*long\\*\n\nExample CPU")


def test_measurements_outside_the_duels_are_shown_too() -> None:
    duel = make_duel()
    more = msgspec.structs.replace(
        duel, measurements=[*duel.measurements, make_measurement("standard", 2048)]
    )
    text = results_markdown(more)
    assert "| regressed |" in text
    assert "| 2048 | standard | " in text


def test_a_duel_that_was_not_judged_yet_shows_its_sides() -> None:
    text = results_markdown(msgspec.structs.replace(make_duel(), duels=[]))
    assert "| 512 | flash (A) |" in text
    assert "|   | flash (B) |" in text


def test_a_duel_with_a_side_that_crashed_has_no_figures() -> None:
    duel = make_duel()
    rows = list(duel.measurements)
    rows[1] = msgspec.structs.replace(
        rows[1], status="crashed", reason="killed by signal 9", time=None, rates=None
    )
    judged = msgspec.structs.replace(
        duel.duels[0],
        ratio=None,
        low=None,
        high=None,
        confidence=None,
        p_value=None,
        p_holm=None,
        verdict="inconclusive",
        reason="B crashed",
    )
    text = results_markdown(msgspec.structs.replace(duel, measurements=rows, duels=[judged]))
    assert "| 512 | 0.73 | crashed | - | - | - | 9 | inconclusive |" in text
    assert "- N=512: B crashed: killed by signal 9" in text


def test_warnings_are_there_too() -> None:
    results = msgspec.structs.replace(small_profile(), warnings=["others used 0.8 cores: end them | again"])
    assert results_markdown(results).endswith("\n\n- warning: others used 0.8 cores: end them \\| again\n")


def test_nothing_measured_says_so() -> None:
    empty: Results = make_results([])
    assert results_markdown(empty).endswith("\n\nno point was measured\n")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("<script> & more", "&lt;script&gt; &amp; more"),
        ("*not* `code`", r"\*not\* \`code\`"),
        (r"C:\|", r"C:\\\|"),
        ("two\nlines\r\n", "two lines"),
        ("max_abs_error", "max_abs_error"),
    ],
)
def test_text_is_shown_as_it_is(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_a_grid_is_the_same_table_in_markdown() -> None:
    grid = Grid("Seq\nLen", "Speed-\nup", "Verdict", left=[2])
    grid.add_row("128", Cell("1.06x", Tone.GOOD), Cell("bad", Tone.BAD), last=True)
    grid.add_row("", NOTHING, Cell("", Tone.BAD))
    assert grid.markdown() == (
        "| Seq Len | Speedup | Verdict |\n| --: | --: | :-- |\n| 128 | 1.06x | **bad** |\n|   | - |   |"
    )
