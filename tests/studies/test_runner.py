"""A run measures every point, even if some fail, and records where and how."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import fake_engines

from flashbench.errors import EngineError
from flashbench.measure.machine import MachineFacts, describe_machine
from flashbench.measure.timing import Burst
from flashbench.measure.worker import Worker
from flashbench.results.record import Measurement, Results, Status
from flashbench.studies import peak, runner, session
from flashbench.studies.progress import Progress
from flashbench.studies.runner import Interrupted, failed, run
from flashbench.studies.study import Study

SEGFAULTS = sys.platform != "win32"


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engines.make_known(tmp_path, monkeypatch)


def measure(**settings: Any) -> Results:
    defaults = {"seq_lens": [24], "repeats": 2, "rounds": 2, "threads": 1, "timeout_s": 20.0}
    return run(Study(**{**defaults, **settings}), command=["flashbench", "profile"])


def row_of(results: Results, engine: str) -> Measurement:
    (row,) = [row for row in results.measurements if row.engine == engine]
    return row


def assert_times(row: Measurement, *, processes: int, calls: int) -> None:
    assert row.time is not None
    assert [len(process) for process in row.time.samples_ns] == [calls] * processes


def assert_complete(row: Measurement, *, bursts: int = 2, repeats: int = 2) -> None:
    assert (row.status, row.reason) == ("ok", None)
    assert row.time is not None
    assert [len(burst) for burst in row.time.samples_ns] == [repeats] * bursts
    assert 0 < row.time.low_ns <= row.time.median_ns <= row.time.high_ns
    assert row.memory is not None
    assert row.memory.workspace_peak_bytes > 0
    assert row.accuracy is not None
    assert row.accuracy.max_abs_error is not None
    assert row.accuracy.max_abs_error <= row.accuracy.tolerance
    assert row.rates is not None
    assert row.rates.gflops > 0


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_run_measures_time_memory_and_exactness(direction: str) -> None:
    results = measure(engines=["numpy", "Right"], directions=[direction], causal=[True], seq_lens=[24, 33])
    assert [(row.problem.seqlen_q, row.engine) for row in results.measurements] == [
        (24, "numpy"),
        (24, "Right"),
        (33, "numpy"),
        (33, "Right"),
    ]
    for row in results.measurements:
        assert row.direction == direction
        assert_complete(row)
        assert row.accuracy is not None
        assert row.accuracy.rows_checked == row.problem.seqlen_q
    assert not failed(results)


@pytest.mark.grid
def test_memory_of_a_run_is_what_the_engines_expected() -> None:
    results = measure(
        engines=["standard", "flash", "numpy"],
        directions=["fwd", "bwd", "fwd_bwd"],
        seq_lens=[64, 300],
        repeats=1,
        rounds=1,
        check=False,
    )
    assert len(results.measurements) == 3 * 3 * 2
    for row in results.measurements:
        assert row.memory is not None
        expected = row.memory.expected_workspace_bytes
        assert expected is not None
        assert row.memory.workspace_peak_bytes == pytest.approx(expected, rel=0.05, abs=4096)


@pytest.mark.grid
def test_worker_that_measured_other_points_before_measures_the_same_memory() -> None:
    fresh, reused = (
        measure(engines=["flash", "numpy"], seq_lens=lengths, repeats=1, rounds=1, check=False).measurements[
            -2:
        ]
        for lengths in ([300], [32, 256, 300])
    )
    for one, other in zip(fresh, reused, strict=True):
        assert one.memory is not None
        assert other.memory is not None
        # The difference is at most the padding that aligns an array.
        assert abs(one.memory.workspace_peak_bytes - other.memory.workspace_peak_bytes) <= 64


def test_results_are_complete_in_themselves() -> None:
    results = measure(engines=["Right"], causal=[False, True])
    again = msgspec.json.decode(msgspec.json.encode(results), type=Results)
    assert again == results
    assert results.command == ["flashbench", "profile"]
    assert results.config["threads"] == 1
    assert results.config["repeats"] == 2
    assert results.machine.cores
    assert results.machine.isa


def test_percent_of_peak_is_of_the_limit_measured_in_the_same_run() -> None:
    results = measure(engines=["Right"])
    (gflops,) = results.machine.peak_gflops.values()
    assert 0 < gflops <= 1000 / 1e6  # it sleeps for 1 ms, or somewhat longer
    assert results.machine.peak_threads == 1
    rates = results.measurements[0].rates
    assert rates is not None
    assert rates.percent_of_peak == pytest.approx(100 * rates.gflops / gflops)


def test_run_goes_on_without_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "FACTORY", f"{fake_engines.__name__}:build_no_peak")
    results = measure(engines=["Right"])
    assert results.machine.peak_gflops == {}
    assert results.machine.peak_threads is None
    rates = results.measurements[0].rates
    assert rates is not None
    assert rates.percent_of_peak is None


@pytest.mark.parametrize(
    ("engine", "status", "reason"),
    [
        ("OutOfMemory", "out_of_memory", "Unable to allocate"),
        ("Hanging", "timeout", "no answer after 1 s while being timed"),
        *(
            [
                ("Segfaulting", "crashed", "killed by SIGSEGV while being timed"),
                ("Killed", "crashed", "killed by SIGKILL while being timed"),
            ]
            if SEGFAULTS
            else []
        ),
    ],
)
def test_engine_that_fails_is_a_row_beside_complete_ones(
    engine: str, status: Status, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Worker.time

    def impatient(worker: Worker, slot: str, repeats: int, **limits: int) -> Burst:
        patience, worker.timeout_s = (
            worker.timeout_s,
            1.0,
        )  # the start of a process may be slow, and does not count
        burst = timed(worker, slot, repeats, **limits)
        worker.timeout_s = patience
        return burst

    monkeypatch.setattr(Worker, "time", impatient)
    results = measure(engines=[engine, "Right"], seq_lens=[24, 25])
    bad, good = ([row for row in results.measurements if row.engine == name] for name in (engine, "Right"))
    assert len(bad) == len(good) == 2  # it was tried again at the next length
    for row in bad:
        assert row.status == status
        assert row.reason is not None
        assert row.reason.startswith(reason)
        assert row.time is row.memory is row.rates is None
    for row in good:
        assert_complete(row)
    assert failed(results)


def test_engine_that_prints_is_measured_like_any_other() -> None:
    assert_complete(row_of(measure(engines=["Printing"]), "Printing"))


@pytest.mark.parametrize(
    ("engine", "reason"),
    [("Wrong", "o is off the float64 oracle by"), ("NotANumber", "o has NaN or infinity where")],
)
def test_wrong_engine_keeps_its_figures_and_is_flagged(engine: str, reason: str) -> None:
    results = measure(engines=[engine])
    row = row_of(results, engine)
    assert row.status == "wrong"
    assert row.reason is not None
    assert row.reason.startswith(reason)
    assert row.accuracy is not None
    if engine == "NotANumber":
        assert row.accuracy.max_abs_error is None
    else:
        assert row.accuracy.max_abs_error is not None
        assert row.accuracy.max_abs_error > row.accuracy.tolerance
    assert row.time is not None
    assert row.memory is not None
    assert failed(results)


def test_unsupported_point_is_a_row_and_no_failure() -> None:
    results = measure(engines=["Unsupporting", "Right"])
    row = row_of(results, "Unsupporting")
    assert (row.status, row.reason) == ("unsupported", "seqlen_q must be odd, not 24")
    assert_complete(row_of(results, "Right"))
    assert not failed(results)


def test_point_beyond_the_memory_budget_is_not_tried() -> None:
    results = measure(engines=["Right"], seq_lens=[24, 4096], memory_budget_bytes=16 * 1024**2)
    small, large = results.measurements
    assert_complete(small)
    assert large.status == "too_large"
    assert large.reason == "needs 136.2 MiB, the memory budget is 16.0 MiB: predicted, not tried"
    assert large.time is large.memory is large.accuracy is None
    assert not failed(results)


def test_point_beyond_the_machine_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "available_memory_bytes", lambda: 2 * 1024**3)
    lengths = [32, 65536]
    _, row = measure(engines=["Right"], seq_lens=lengths, memory_budget_bytes=64 * 1024**3).measurements
    assert row.reason == "needs 32.1 GiB, this machine has 2.0 GiB free: predicted, not tried"


def test_engine_without_blocks_is_measured_once() -> None:
    results = measure(engines=["Right", "Blocked"], block_sizes=[16, "auto", 32], memory=False, check=False)
    found = [(row.engine, row.block_q, row.block_k, row.blocks_asked) for row in results.measurements]
    assert found == [
        ("Right", None, None, None),
        ("Blocked", 16, 16, (16, 16)),
        ("Blocked", 48, 24, "auto"),
        ("Blocked", 32, 32, (32, 32)),
    ]
    assert all(row.memory is None and row.accuracy is None for row in results.measurements)
    assert all(row.time is not None for row in results.measurements)


def test_point_survives_the_death_of_its_neighbour_in_the_same_process() -> None:
    results = measure(engines=["DyingOfBlocks"], block_sizes=[12, 13, 14])
    before, dead, after = results.measurements
    assert (dead.status, dead.reason) == ("crashed", "left with exit code 0x1 while being timed")
    for row in (before, after):
        assert_complete(row)


def test_every_round_times_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []

    class Counted(Worker):
        def __init__(self, threads: int, **options: Any) -> None:
            started.append(self)
            super().__init__(threads, **options)

    monkeypatch.setattr("flashbench.measure.pool.Worker", Counted)
    results = measure(engines=["numpy", "Right"], seq_lens=[24, 25, 26], rounds=3)
    # Processes: two engines in three rounds, one for the memory of each point, and the two hardware limits.
    assert len(started) == 2 * 3 + 2 * 3 + 2
    assert not any(worker.alive for worker in started)
    for row in results.measurements:
        assert_complete(row, bursts=3)


def test_what_the_processes_run_with_is_recorded() -> None:
    results = measure(engines=["numpy", "Right"], threads=1, memory=False)
    assert set(results.processes) == {"numpy", "Right"}
    process = results.processes["numpy"]
    assert process.environment["OMP_NUM_THREADS"] == "1"
    assert process.python == sys.executable
    assert {pool.user_api for pool in process.threadpools} >= {"blas"}
    assert all(pool.num_threads == 1 for pool in process.threadpools)


def test_each_number_of_threads_has_workers_and_limits_of_its_own() -> None:
    results = measure(engines=["numpy", "Right"], threads=[1, 2], seq_lens=[24, 25], rounds=1)
    found = [(row.problem.seqlen_q, row.engine, row.threads) for row in results.measurements]
    assert found == [
        (seqlen, engine, threads)
        for seqlen in (24, 25)
        for engine in ("numpy", "Right")
        for threads in (1, 2)
    ]
    for row in results.measurements:
        assert_complete(row, bursts=1)
    assert results.config["threads"] == [1, 2]
    assert results.machine.peak_threads == 2
    assert results.processes["numpy"].environment["OMP_NUM_THREADS"] == "2"
    assert {pool.num_threads for pool in results.processes["numpy"].threadpools} == {2}


def test_a_run_on_a_loaded_machine_warns_and_records_what_the_machine_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy() -> MachineFacts:
        return dataclasses.replace(describe_machine(), others_cores=1.5)

    monkeypatch.setattr(runner, "describe_machine", busy)
    results = measure(engines=["Right"], memory=False)
    assert results.machine.others_cores == 1.5
    assert any("other processes use 1.5 cores" in line for line in results.warnings)
    assert results.machine.read_bandwidth_gbps is not None
    assert results.machine.read_bandwidth_gbps > 0


def test_outputs_are_counted_as_the_engine_returns_them_and_its_kernel_is_recorded() -> None:
    right, lean = measure(engines=["Right", "Lean"], check=False, rounds=1).measurements
    assert right.memory is not None
    assert lean.memory is not None
    lse_bytes = 24 * 8
    assert right.memory.output_bytes == right.problem.output_bytes("fwd")
    assert lean.memory.output_bytes == right.memory.output_bytes - lse_bytes
    assert right.kernel is None
    assert lean.kernel == "lean fwd"


def test_cold_calls_are_measured_and_recorded() -> None:
    results = measure(engines=["Right"], cold=True, memory=False, repeats=2, rounds=1)
    assert results.config["cold"] is True
    assert_times(results.measurements[0], processes=1, calls=2)


def test_a_step_hands_over_all_that_is_known() -> None:
    seen: list[Results] = []
    study = Study(engines=["Right"], seq_lens=[24, 25], repeats=1, rounds=2, threads=1)
    results = run(study, command=[], on_results=seen.append)
    assert len(seen) == 2 * 2 + 2  # bursts and memory
    assert [len(step.measurements) for step in seen] == [1, 2, 2, 2, 2, 2]
    assert not any(step.complete for step in seen[:-1])
    assert seen[-1].complete
    assert seen[-1].measurements == results.measurements


@pytest.mark.parametrize("name", ["flsh", "Missing"])
def test_unknown_engine_stops_the_run_before_it_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashbench.measure.pool.Worker", None)
    with pytest.raises(EngineError, match=f"unknown engine '{name}'"):
        measure(engines=["Right", name])


def test_interrupted_run_returns_what_is_known() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    study = Study(engines=["Right"], seq_lens=[24, 25, 26, 27], repeats=1, rounds=1, threads=1)
    with pytest.raises(Interrupted) as caught:
        run(study, command=[], on_progress=interrupt)
    results = caught.value.results
    assert not results.complete
    assert [row.problem.seqlen_q for row in results.measurements] == [24, 25]
    for row in results.measurements:
        assert_times(row, processes=1, calls=1)
        assert row.memory is None  # the memory of all comes after the time of all


def test_progress_counts_up_to_all_steps_and_learns_what_is_left() -> None:
    seen: list[Progress] = []
    study = Study(engines=["Right", "Unsupporting"], seq_lens=[24, 25], repeats=1, rounds=2, threads=1)
    run(study, command=[], on_progress=seen.append)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert {step.total for step in seen} == {4 * 3}
    assert seen[-1] == Progress(12, 12, "done", 0.0)
    assert seen[0].label == "Right fwd, N=24: first call"
    assert seen[0].left_s is None
    assert all(step.left_s is not None for step in seen[4:])
