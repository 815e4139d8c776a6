"""Results from a formula: the same figures on every machine, for tests of files and tables."""

from __future__ import annotations

import math
from typing import Any

from flashbench.analysis.decoding import is_decoding, kv_bytes_read, reads_memory
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.peaks import peak_name
from flashbench.results.record import (
    SCHEMA_VERSION,
    Accuracy,
    Kind,
    Machine,
    Measurement,
    Memory,
    Rates,
    Results,
    Status,
    Time,
)

MACHINE = Machine(
    host="example",
    cpu="Example CPU 9000 @ 3.00GHz",
    microarchitecture="zen4",
    isa="avx512",
    cores=2,
    memory_bytes=16 * 1024**3,
    caches={"L1d": 32 * 1024, "L2": 1024**2, "L3": 32 * 1024**2},
    governor="performance",
    load=0.1,
    peak_gflops={"float64": 117.0, "float32": 233.0},
    peak_threads=2,
    os="Linux 6.1",
    python="3.11.9",
    libraries={"numpy": "2.0.0"},
)
# For decoding steps, whose rate is in bytes per second.
READ_BANDWIDTH_GBPS = 20.0
# The peaks of paths, which only machines that ran 16-bit dtypes have.
PATH_PEAKS = {"bfloat16/amx": 2200.0, "bfloat16/convert": 230.0}
# Share of the peak that each engine reaches, so that times follow from the problem alone.
SHARE = {"flash": 0.8, "standard": 0.4, "numpy": 0.2, "torch-flash": 0.5}


def make_time(median_ns: float, *, processes: int = 7, calls: int = 5, spread: float = 0.02) -> Time:
    """Times that vary a little by process and a little more by call, by sines instead of random numbers."""
    samples = [
        [
            round(median_ns * (1 + spread * (0.5 * math.sin(7 * process + 1) + math.sin(3 * call + process))))
            for call in range(calls)
        ]
        for process in range(processes)
    ]
    flat = sorted(sample for process in samples for sample in process)
    return Time(
        samples_ns=samples,
        median_ns=float(flat[len(flat) // 2]),
        low_ns=float(flat[len(flat) // 4]),
        high_ns=float(flat[3 * len(flat) // 4]),
        minimum_ns=float(flat[0]),
    )


def make_measurement(
    engine: str,
    seqlen: int,
    *,
    direction: Direction = "fwd",
    status: Status = "ok",
    reason: str | None = None,
    block: int | None = None,
    slower: float = 1.0,
    spread: float = 0.02,
    problem: AttentionProblem | None = None,
    path: str | None = None,
    path_asked: str | None = None,
    **sizes: Any,
) -> Measurement:
    """A measurement of a machine that reaches SHARE of its peak; times are multiplied by `slower`.

    problem: replaces the problem that the length and sizes give. path: of its products, for 16-bit dtypes.
    """
    problem = problem or AttentionProblem.of(seqlen, **sizes)
    flops = problem.flops(direction)
    peaks = MACHINE.peak_gflops | PATH_PEAKS
    peak = peaks[problem.dtype if path is None else peak_name(problem.dtype, path)]
    gbps = None
    if direction == "fwd" and reads_memory(problem):
        gbps = SHARE[engine] * READ_BANDWIDTH_GBPS / slower
    median_ns = slower * flops / (SHARE[engine] * peak) + 5_000
    if is_decoding(problem):
        median_ns = kv_bytes_read(problem) / (SHARE[engine] * READ_BANDWIDTH_GBPS) * slower
    heads = problem.batch * problem.num_heads
    scores = heads * seqlen * problem.seqlen_k * problem.itemsize
    workspace = 32 * seqlen + 2048 if engine == "flash" else scores
    blocked = engine == "flash"
    time = make_time(median_ns, spread=spread) if status in ("ok", "wrong") else None
    return Measurement(
        problem=problem,
        engine=engine,
        direction=direction,
        block_q=(block or 64) if blocked else None,
        block_k=(block or 64) if blocked else None,
        blocks_asked=None if not blocked else "auto" if block is None else (block, block),
        threads=2,
        status=status,
        reason=reason,
        isa_path=path,
        path_asked=path_asked,
        time=time,
        memory=None
        if time is None
        else Memory(
            workspace_peak_bytes=workspace,
            expected_workspace_bytes=workspace,
            input_bytes=problem.input_bytes(direction),
            output_bytes=problem.output_bytes(direction),
        ),
        accuracy=None
        if time is None
        else Accuracy(
            max_abs_error=0.25 if status == "wrong" else 4.4e-16,
            tolerance=1e-12,
            rows_checked=seqlen,
        ),
        rates=None
        if time is None
        else Rates(
            gflops=flops / time.median_ns,
            percent_of_peak=100 * flops / time.median_ns / peak,
            gbps=gbps,
            percent_of_bandwidth=None if gbps is None else 100 * gbps / READ_BANDWIDTH_GBPS,
        ),
    )


def make_results(
    measurements: list[Measurement] | None = None,
    *,
    kind: Kind = "profile",
    machine: Machine = MACHINE,
    complete: bool = True,
) -> Results:
    """A file of these measurements; by default the documented rows of standard and flash."""
    if measurements is None:
        measurements = [
            make_measurement(engine, seqlen)
            for seqlen in (128, 512, 1024, 2048, 4096)
            for engine in ("standard", "flash")
        ]
    return Results(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        created="2026-11-23T12:00:00+00:00",
        flashbench_version="0.1.0",
        command=["flashbench", "profile"],
        config={"kind": "profile", "seed": 0, "threads": 2, "repeats": 5, "rounds": 7},
        machine=machine,
        measurements=measurements,
        complete=complete,
    )
