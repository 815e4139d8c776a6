"""Effects of a machine's state on measurements, and what to do: lines of at most 78 characters."""

from __future__ import annotations

from flashbench.analysis.sizes import size_word
from flashbench.results.record import Machine

# The counters advance in steps of 10 ms. Two steps in the 0.2 s watched are the daemons of an idle machine.
# On large machines the system itself takes a hundredth of every core.
OTHERS_CORES = 0.1
OTHERS_PER_CORE = 0.01
# Losing a hundredth of the time is as large as the differences to be measured.
STEAL_PERCENT = 1.0
# As a share of the machine's memory. An idle system swaps out less than this, without harm.
SWAP_SHARE = 0.05
# Runnable threads for each core over the last minute. They may be those of our own last run, so this is a
# remark about the machine, not a warning at the start of every run.
LOAD_PER_CORE = 0.5
STEADY_GOVERNOR = "performance"


def run_warnings(machine: Machine) -> list[str]:
    """Warnings for a run that starts now: other processes, stolen time, swapping, bound threads."""
    lines = []
    if _others_disturb(machine):
        lines.append(
            f"other processes use {machine.others_cores:.1f} cores: times get longer; stop them, or wait"
        )
    if machine.steal_percent is not None and machine.steal_percent > STEAL_PERCENT:
        lines.append(
            f"steal {machine.steal_percent:.1f} %: the host gives CPU time to others; take more --rounds"
        )
    swapped, memory = machine.swap_used_bytes, machine.memory_bytes
    if swapped is not None and memory is not None and swapped > SWAP_SHARE * memory:
        lines.append(f"{size_word(swapped)} swapped out: calls may wait for the disk; end what holds memory")
    if machine.binding:
        first, *others = machine.binding
        names = f"{first} and {len(others)} more" if others else first
        lines.append(f"{names}: OpenMP's threads are bound to cores; unset it")
    return lines


def advice(
    machine: Machine, *, all_cores: int | None = None, host_isa: str | None = None, energy: bool = True
) -> list[str]:
    """Everything that a reader should know or may do before measuring here.

    all_cores: cores of the machine. host_isa: instruction set of its CPU. energy: whether there is a counter
    to read.
    """
    lines = run_warnings(machine)
    cores = machine.cores
    busy_before = machine.load is not None and cores is not None and machine.load > LOAD_PER_CORE * cores
    if busy_before and not _others_disturb(machine):
        lines.append(f"load {machine.load:.1f}, though nothing runs now: look again in a minute")
    if machine.governor is not None and machine.governor != STEADY_GOVERNOR:
        lines.append(f"governor {machine.governor}: clocks rise late; cpupower frequency-set -g performance")
    if machine.boost:
        lines.append("boost on: clocks move with heat; steadier without (no_turbo or cpufreq/boost)")
    if cores is not None and all_cores is not None and cores < all_cores:
        lines.append(f"{cores} of {all_cores} cores are ours: taskset, cgroup or NUMBA_NUM_THREADS say so")
    if machine.cpu_quota is not None:
        lines.append(f"CPU quota {machine.cpu_quota:.3g} cores (cgroup): all threads wait when it is used up")
    if machine.threads_per_core is not None and machine.threads_per_core > 1:
        lines.append(
            f"{machine.threads_per_core} threads share a core's units: steadier on one of each (taskset)"
        )
    if machine.virtual:
        lines.append("virtual machine: unseen neighbours move times; trust ratios (flashbench duel)")
    if host_isa is not None and machine.isa is not None and machine.isa != host_isa:
        lines.append(f"kernels take {machine.isa}, the CPU has {host_isa}: unset NUMBA_CPU_NAME to use it")
    if not energy:
        lines.append("energy counters (RAPL): not readable here; guests have none, else ask root")
    return lines


def _others_disturb(machine: Machine) -> bool:
    """Whether other processes use more of the cores than those of an idle machine."""
    allowed = OTHERS_CORES + OTHERS_PER_CORE * (machine.cores or 1)
    return machine.others_cores is not None and machine.others_cores > allowed
