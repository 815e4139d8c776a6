"""results/documented.json holds the documented figures, and they add up."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashbench.report.units import documented_bytes
from flashbench.results.record import Measurement, Results
from flashbench.results.store import load

MILLISECONDS = {128: 1.23, 512: 5.67, 1024: 15.34, 2048: 45.12, 4096: 120.45}
SAVINGS = {128: 16, 512: 64, 1024: 128, 2048: 256, 4096: 512, 8192: 1024}


@pytest.fixture
def documented(repository: Path) -> Results:
    return load(repository / "results" / "documented.json")


def workspace(row: Measurement) -> int:
    assert row.memory is not None
    return row.memory.workspace_peak_bytes


def test_it_names_no_machine(documented: Results) -> None:
    assert documented.kind == "documented"
    assert documented.machine.cpu == "not stated"
    assert {row.threads for row in documented.measurements} == {None}


def test_standard_holds_its_scores_and_flash_eight_numbers_a_row(documented: Results) -> None:
    for row in documented.measurements:
        batch, seqlen = row.problem.batch, row.problem.seqlen_q
        per_row = seqlen if row.engine == "standard" else 8
        assert workspace(row) == batch * seqlen * per_row * 8
        assert (row.problem.dtype, row.problem.num_heads, row.problem.head_dim) == ("float64", 1, 64)


def test_savings_are_the_documented_ones(documented: Results) -> None:
    rows = {(row.engine, row.problem): workspace(row) for row in documented.measurements}
    for (engine, problem), memory in rows.items():
        if engine == "standard":
            assert memory == SAVINGS[problem.seqlen_q] * rows["flash", problem]


@pytest.mark.parametrize(
    ("batch", "seqlen", "standard", "flash"),
    [
        (1, 128, "128.00 KB", "8.00 KB"),
        (1, 4096, "128.00 MB", "256.00 KB"),
        (8, 512, "16.00 MB", "256.00 KB"),
        (8, 8192, "4.00 GB", "4.00 MB"),
    ],
)
def test_first_and_last_rows_read_as_documented(
    documented: Results, batch: int, seqlen: int, standard: str, flash: str
) -> None:
    rows = [row for row in documented.measurements if row.problem.batch == batch]
    found = {row.engine: documented_bytes(workspace(row)) for row in rows if row.problem.seqlen_q == seqlen}
    assert found == {"standard": standard, "flash": flash}


def test_times_are_flash_s_at_batch_1(documented: Results) -> None:
    timed = {row.problem.seqlen_q: row for row in documented.measurements if row.time}
    assert {seqlen: row.time.median_ns / 1e6 for seqlen, row in timed.items() if row.time} == MILLISECONDS
    assert {(row.engine, row.problem.batch) for row in timed.values()} == {("flash", 1)}
