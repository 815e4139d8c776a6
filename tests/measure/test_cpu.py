"""CPU time is divided into this process's, other processes' and the hypervisor's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import psutil
import pytest

from flashbench.measure import cpu
from flashbench.measure.cpu import NO_USE, CpuMeter, CpuUse, steal_share

SPAN_S = 1.0


@contextmanager
def spinning() -> Iterator[psutil.Process]:
    """Another process that keeps a core busy."""
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        child.stdout.readline()  # it has started
        yield psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def used_by(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_work_of_another_process_is_seen() -> None:
    with spinning() as child:
        before, meter = used_by(child), CpuMeter()
        time.sleep(SPAN_S)
        use, after = meter.read(), used_by(child)
    # At least the child's own time, except for two steps of the counters. On a shared machine there may be
    # more, from other processes.
    assert use.others_s >= after - before - 0.05
    assert use.others_cores <= (psutil.cpu_count() or 1) * 1.1
    assert use.wall_s == pytest.approx(SPAN_S, rel=0.5)


def test_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, own = iter([100.0, 103.0]), iter([10.0, 12.5])
    monkeypatch.setattr(cpu, "_busy_and_steal", lambda: (next(busy), 0.0))
    monkeypatch.setattr(cpu, "process_time", lambda: next(own))
    assert CpuMeter().read().others_s == pytest.approx(0.5)


def test_counters_behind_the_clock_are_no_negative_use(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, own = iter([100.0, 100.0]), iter([10.0, 10.009])
    monkeypatch.setattr(cpu, "_busy_and_steal", lambda: (next(busy), 0.0))
    monkeypatch.setattr(cpu, "process_time", lambda: next(own))
    assert CpuMeter().read().others_s == 0.0


def test_busy_time_is_psutils_less_idle_and_waiting() -> None:
    before, (busy, steal), after = psutil.cpu_times(), cpu._busy_and_steal(), psutil.cpu_times()

    def total(times: SimpleNamespace) -> float:
        known = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "steal", 0.0)
        # user and nice include the time of guests.
        return known - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)

    assert total(before) - 1e-6 <= busy <= total(after) + 1e-6
    assert getattr(before, "steal", 0.0) <= steal <= getattr(after, "steal", 0.0)


def test_steal_is_a_share_of_the_time_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(user=60.0, nice=0.0, system=20.0, idle=900.0, irq=0.0, softirq=0.0, steal=20.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    assert steal_share() == pytest.approx(0.2)
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=1.0, system=1.0, idle=1.0))
    assert steal_share() is None


def test_spans_add_up() -> None:
    assert NO_USE + CpuUse(1.0, 0.5, 0.1) + CpuUse(3.0, 1.5, 0.0) == CpuUse(4.0, 2.0, 0.1)
    assert CpuUse(4.0, 2.0, 0.0).others_cores == 0.5
    assert NO_USE.others_cores == 0.0
