"""Advice fits the machine: none on a quiet machine, and one line per problem otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.fake_results import MACHINE
from msgspec.structs import replace

from flashbench.analysis.advice import advice, run_warnings
from flashbench.results.record import Machine

LINE = 78  # beside a dash, in a terminal of 80 columns


def quiet(**changes: Any) -> Machine:
    """A steady, idle machine with 8 cores, except for `changes`."""
    steady: dict[str, Any] = {
        "cores": 8,
        "affinity": list(range(8)),
        "threads_per_core": 1,
        "virtual": False,
        "swap_used_bytes": 0,
        "boost": False,
        "governor": "performance",
        "load": 0.1,
        "others_cores": 0.05,
        "steal_percent": 0.0,
    }
    return replace(MACHINE, **(steady | changes))


def test_quiet_machine_needs_no_advice() -> None:
    assert advice(quiet(), all_cores=8, host_isa="avx512") == []


def test_what_is_not_told_is_no_reason_for_advice() -> None:
    assert advice(Machine(host="example", cpu="Example CPU")) == []


DISTURBED = {
    "others_cores": (0.8, "other processes use 0.8 cores"),
    "steal_percent": (3.26, "steal 3.3 %"),
    "swap_used_bytes": (2 * 1024**3, "2.0 GiB swapped out"),
    "binding": ({"OMP_PROC_BIND": "close"}, "OMP_PROC_BIND: OpenMP's threads are bound to cores"),
}
HABITS = {
    "load": (6.5, "load 6.5"),
    "governor": ("powersave", "governor powersave"),
    "boost": (True, "boost on"),
    "threads_per_core": (2, "2 threads share a core's units"),
    "virtual": (True, "virtual machine"),
    "isa": ("avx2", "kernels take avx2, the CPU has avx512"),
    "cores": (2, "2 of 8 cores are ours"),
    "cpu_quota": (7.5, "CPU quota 7.5 cores (cgroup)"),
}


@pytest.mark.parametrize("name", DISTURBED)
def test_disturbed_machine_warns_at_the_start_of_a_run(name: str) -> None:
    value, said = DISTURBED[name]
    machine = quiet(**{name: value})
    (line,) = run_warnings(machine)
    assert line.startswith(said)
    assert advice(machine, all_cores=8, host_isa="avx512") == [line]


@pytest.mark.parametrize("name", HABITS)
def test_what_a_machine_always_does_is_advice_alone(name: str) -> None:
    value, said = HABITS[name]
    machine = quiet(**{name: value})
    (line,) = advice(machine, all_cores=8, host_isa="avx512")
    assert line.startswith(said)
    assert run_warnings(machine) == []


def test_energy_that_cannot_be_read_is_said_once() -> None:
    (line,) = advice(quiet(), energy=False)
    assert line.startswith("energy counters (RAPL): not readable here")


@pytest.mark.parametrize(("cores", "others", "disturbs"), [(2, 0.1, False), (2, 0.2, True), (64, 0.5, False)])
def test_large_machines_may_do_more_of_their_own(cores: int, others: float, disturbs: bool) -> None:
    assert bool(run_warnings(quiet(cores=cores, others_cores=others))) is disturbs


def test_load_is_not_told_twice() -> None:
    (line,) = advice(quiet(load=6.5, others_cores=5.0), all_cores=8)
    assert line.startswith("other processes use 5.0 cores")


def test_all_advice_is_one_line_each_that_names_what_to_do() -> None:
    values = {name: value for name, (value, _) in (DISTURBED | HABITS).items()}
    bound = dict.fromkeys(("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"), "close")
    worst = quiet(
        **values
        | {"binding": bound, "cpu_quota": 127.25}
        | {"swap_used_bytes": 100 * 1024**3, "steal_percent": 12.3, "governor": "conservative"}
    )
    lines = advice(worst, all_cores=128, host_isa="avx512", energy=False)
    lines += advice(quiet(load=123.0), all_cores=8)
    assert len(lines) == len(DISTURBED) + len(HABITS) + 1
    assert [line for line in lines if len(line) > LINE] == []
    assert all(": " in line or "; " in line for line in lines)
