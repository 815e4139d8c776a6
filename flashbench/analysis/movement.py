"""Warnings about times that moved during a run, with the likely cause."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.groups import grouped
from flashbench.analysis.problem_words import length_word
from flashbench.analysis.words import counted
from flashbench.results.record import Disturbance, Measurement

# If medians of processes differ by more than this, they are not one number.
MOVED = 0.10
# A smaller share of a core cannot move a median that much.
OTHERS_CORES = 0.1
STEAL_PERCENT = 2.0


def movement_warnings(measurements: Sequence[Measurement]) -> list[str]:
    """A line for each engine and direction whose medians moved too far, and one for throttling."""
    moved = (row for row in measurements if row.disturbance is not None and row.disturbance.moved > MOVED)
    groups = grouped(moved, lambda row: (row.engine, row.direction))
    lines = [_line(engine, direction, rows) for (engine, direction), rows in groups.items()]
    disturbed = [row.disturbance for row in measurements if row.disturbance is not None]
    return lines + throttle_warnings(sum(one.throttled_periods or 0 for one in disturbed))


def throttle_warnings(periods: int) -> list[str]:
    """A line if a CPU quota stopped timed calls. periods: those in which it was used up."""
    if not periods:
        return []
    used_up = f"the CPU quota (cgroup) was used up in {counted(periods, 'period')} while timing"
    return [f"{used_up}: threads had to wait, and times are longer; take fewer --threads, or a larger quota"]


def _line(engine: str, direction: str, rows: list[Measurement]) -> str:
    found = [row.disturbance for row in rows if row.disturbance is not None]
    moved = max(one.moved for one in found)
    lengths = ", ".join(dict.fromkeys(length_word(row.problem) for row in rows))
    return (
        f"{engine} {direction} at {lengths}: median moved {100 * moved:.0f} % between its processes: "
        f"{_cause(found)}"
    )


def _cause(found: list[Disturbance]) -> str:
    others = max((one.others_cores or 0.0 for one in found), default=0.0)
    steal = max((one.steal_percent or 0.0 for one in found), default=0.0)
    causes = []
    if any(one.throttled_periods for one in found):
        causes.append("its threads had to wait for a CPU quota: take fewer --threads, or a larger quota")
    if others >= OTHERS_CORES:
        causes.append(f"other processes used {others:.1f} cores: end them and measure again")
    if steal >= STEAL_PERCENT:
        causes.append(f"the hypervisor gave {steal:.0f} % of the CPU time to others: use ratios of one run")
    return "; ".join(causes) or (
        "no other process was busy, so it is the clock, memory or where its threads ran: more --rounds tell"
    )
