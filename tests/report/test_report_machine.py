"""The machine's table from made-up facts, in a terminal of 80 columns."""

from __future__ import annotations

import pytest
from helpers.fake_results import MACHINE, make_results
from helpers.rendering import rendered
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from flashbench.analysis.advice import advice
from flashbench.report.machine import machine_report
from flashbench.results.record import Machine, NumaNode, Results

FULL = replace(
    MACHINE,
    cores=8,
    affinity=[0, 1, 2, 3, 8, 9, 10, 11],
    numa_nodes=[
        NumaNode(number=0, cpus=[0, 1, 2, 3, 8, 9, 10, 11], memory_bytes=128 * 1024**3),
        NumaNode(number=1, cpus=[4, 5, 6, 7, 12, 13, 14, 15], memory_bytes=120 * 1024**3),
        NumaNode(number=2, cpus=[], memory_bytes=512 * 1024**3),
    ],
    threads_per_core=2,
    virtual=False,
    swap_used_bytes=3 * 1024**3,
    governor="powersave",
    boost=True,
    load=5.25,
    others_cores=1.25,
    steal_percent=2.5,
    noise_floor=0.018,
    read_bandwidth_gbps=41.27,
    peak_threads=8,
    libraries={
        "llvmlite": "0.44.0",
        "memray": "1.15.0",
        "numba": "0.61.0",
        "numpy": "2.0.0",
        "scipy": "1.13.0",
    },
)


def of(machine: Machine, *, quick: bool = False, warnings: list[str] | None = None) -> Results:
    results = make_results([], kind="machine", machine=machine)
    return replace(results, config={"quick": quick, "threads": 2}, warnings=warnings or [])


MACHINES = {
    "loaded": of(FULL, warnings=advice(FULL, all_cores=64, host_isa="avx512", energy=False)),
    "quick": of(replace(FULL, peak_gflops={}, read_bandwidth_gbps=None, peak_threads=None), quick=True),
    "quiet": of(replace(FULL, noise_floor=None)),
    "limited": of(
        replace(FULL, cores=2, cpu_quota=1.5, binding={"OMP_PROC_BIND": "close", "OMP_PLACES": "{0},{1}"}),
        quick=True,
    ),
    "unknown": of(Machine(host="example", cpu="Example CPU 9000")),
}


@pytest.mark.parametrize("name", MACHINES)
def test_tables_at_80_columns(name: str, snapshot: SnapshotAssertion) -> None:
    assert rendered(machine_report(MACHINES[name])) == snapshot


def test_advice_stays_on_its_line_at_80_columns() -> None:
    lines = rendered(machine_report(MACHINES["loaded"])).splitlines()
    assert len([line for line in lines if line.startswith("- ")]) == len(MACHINES["loaded"].warnings)
    assert lines[-1].startswith("- ")


def test_unknown_is_said_in_one_way() -> None:
    text = rendered(machine_report(MACHINES["unknown"]))
    assert "None" not in text
    assert "-\n" not in text
    assert text.count("not told") >= 10
