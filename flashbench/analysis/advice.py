"""What a machine's state does to measurements and what to do about it: a line each, of 78 signs at most."""

from __future__ import annotations

from flashbench.analysis.sizes import size_word
from flashbench.results.record import Machine

# The counters advance in steps of 10 ms, and two of them in the 0.2 s watched are an idle machine's
# daemons; a hundredth of every core is what the system itself takes on large ones.
OTHERS_CORES = 0.1
OTHERS_PER_CORE = 0.01
# A hundredth of the time lost is of the size of the differences that one looks for.
STEAL_PERCENT = 1.0
# Of the machine's memory. What an idle system has put aside does no harm, and is less than this.
SWAP_SHARE = 0.05
# Runnable threads a core over the last minute, those of a run of our own that has just ended included:
# worth a word where one asks about the machine, not at the start of every run.
LOAD_PER_CORE = 0.5
STEADY_GOVERNOR = "performance"


def run_warnings(machine: Machine) -> list[str]:
    """What disturbs a run that starts now: others on the cores, stolen time, swapping, bound threads."""
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

    `all_cores` is how many cores the machine has, `host_isa` what its CPU could do, `energy` whether
    there is a counter to read.
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
    """Whether other processes take more of the cores than an idle machine's do."""
    allowed = OTHERS_CORES + OTHERS_PER_CORE * (machine.cores or 1)
    return machine.others_cores is not None and machine.others_cores > allowed
