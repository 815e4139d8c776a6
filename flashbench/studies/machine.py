"""The machine by itself: what it is, its limits measured, and what to do before measuring on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psutil
from msgspec.structs import replace

from flashbench.analysis.advice import advice
from flashbench.dtypes import WIDEST_FIRST, Dtype
from flashbench.errors import EngineError
from flashbench.measure.energy import EnergyMeter
from flashbench.measure.machine import describe_machine
from flashbench.measure.pool import WorkerPool
from flashbench.results.peaks import peak_name
from flashbench.results.record import Machine, Results
from flashbench.studies.bandwidth import BURSTS
from flashbench.studies.limits import Limits
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.progress import Progress
from flashbench.studies.run_record import RunRecord, make_machine
from flashbench.system.cores import available_cores

# Bursts of each dtype's path, the dtypes taking turns.
PEAK_BURSTS = 5
# To look around, then the bursts, the bandwidth and the noise floor.
STEPS = 1 + PEAK_BURSTS * len(WIDEST_FIRST) + 2
TIMEOUT_S = 120.0


def inspect_machine(
    *,
    command: Sequence[str],
    threads: int | None = None,
    quick: bool = False,
    noise_floor: Callable[[], float],
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Results:
    """Facts, limits and advice; `quick` measures nothing.

    `noise_floor` measures the smallest change that can be told here, or raises EngineError or, where memory
    is short, NothingToMeasureError. What could not be measured is missing, and a warning says why.
    """
    from flashbench.codegen.isa import host_isa  # here: loads Numba, which --help must not

    used = threads or available_cores()
    record = RunRecord("machine", command, {"threads": used, "quick": quick})
    on_progress(Progress(0, STEPS, "what else runs"))
    # Before anything is measured, whose own load is not of interest.
    machine = _with_paths(make_machine(describe_machine(), {}, used))
    lines = advice(
        machine,
        all_cores=psutil.cpu_count(),
        host_isa=host_isa().name,
        energy=EnergyMeter().available,
    )
    if not quick:
        machine, failures = _with_limits(machine, used, on_progress)
        lines += failures
        on_progress(Progress(STEPS - 1, STEPS, "noise floor"))
        try:
            machine = replace(machine, noise_floor=noise_floor())
        except (EngineError, NothingToMeasureError) as error:
            lines.append(str(error))
    on_progress(Progress(STEPS, STEPS, "done"))
    return record.results(machine, warnings=lines)


def measured_nothing(results: Results) -> bool:
    """Whether the limits were asked for and none of them could be told."""
    machine = results.machine
    return not results.config.get("quick") and not machine.peak_gflops and machine.read_bandwidth_gbps is None


def _with_paths(machine: Machine) -> Machine:
    """The machine with the path of each dtype, and the reasons why it has not the others."""
    from flashbench.kernels.products.paths import PATHS, obstacle, path_of  # here: loads Numba

    taken = {dtype: path_of(dtype).product.name for dtype in WIDEST_FIRST}
    reasons = {name: obstacle(path) for name, path in PATHS.items()}
    lacking = {name: reason for name, reason in reasons.items() if reason is not None}
    return replace(machine, paths=taken, paths_lacking=lacking)


def _with_limits(
    machine: Machine, threads: int, on_progress: Callable[[Progress], None]
) -> tuple[Machine, list[str]]:
    """The machine with its peaks and its bandwidth, and a line for each that could not be measured."""
    failures: list[str] = []
    paths: list[tuple[Dtype, str]] = [(dtype, machine.paths[dtype]) for dtype in WIDEST_FIRST]
    bursts = [(number, path) for number in range(1, PEAK_BURSTS + 1) for path in paths]
    with WorkerPool(threads, timeout_s=TIMEOUT_S) as pool:
        limits = Limits(pool, threads)
        for done, (number, path) in enumerate(bursts, start=1):
            on_progress(
                Progress(done, STEPS, f"FMA peak, {peak_name(*path)}, burst {number} of {PEAK_BURSTS}")
            )
            limits.time_peak(*path)
        on_progress(Progress(STEPS - 2, STEPS, "read bandwidth"))
        limits.time_bandwidth(BURSTS)
    if limits.read_bandwidth_gbps is None:
        failures.append("read bandwidth could not be measured")
    peaks = limits.peak_gflops()
    names = [peak_name(*path) for path in paths]
    failures += [f"FMA peak of {name} could not be measured" for name in names if name not in peaks]
    measured = replace(
        machine, peak_gflops=peaks, peak_threads=threads, read_bandwidth_gbps=limits.read_bandwidth_gbps
    )
    return measured, failures
