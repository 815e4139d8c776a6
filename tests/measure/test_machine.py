"""The machine's description has all that can be found, and containers' memory limits count."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import psutil
import pytest
from helpers.fake_cgroups import FakeGroups

from flashbench.measure import machine, topology
from flashbench.measure.machine import available_memory_bytes, describe_machine, total_memory_bytes
from flashbench.results.record import Machine
from flashbench.system.node import node_name

GIB = 1024**3


def test_machine_knows_itself() -> None:
    facts = describe_machine()
    assert facts.host == node_name()
    assert facts.cpu
    assert facts.microarchitecture
    assert 0 < facts.memory_bytes <= psutil.virtual_memory().total
    assert facts.libraries["numpy"] == np.__version__
    assert facts.python == platform.python_version()


def test_facts_are_fields_of_the_record_and_say_what_psutil_says() -> None:
    facts = describe_machine()
    assert Machine(**dataclasses.asdict(facts)).affinity == topology.affinity()
    assert facts.others_cores is not None
    assert 0 <= facts.others_cores <= 1.5 * (psutil.cpu_count() or 1)
    assert facts.steal_percent is None or 0 <= facts.steal_percent < 100
    assert facts.swap_used_bytes is not None
    assert 0 <= facts.swap_used_bytes <= psutil.swap_memory().total


def test_caches_are_one_cores_view_without_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [
        ("1", "Data", "32K"),
        ("1", "Instruction", "32K"),
        ("2", "Unified", "1024K"),
        ("3", "Unified", "32768K"),
    ]
    for index, values in enumerate(known):
        directory = tmp_path / "cache" / f"index{index}"
        directory.mkdir(parents=True)
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (directory / name).write_text(value + "\n")
    monkeypatch.setattr(machine, "CPU_DIRECTORY", tmp_path)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert machine._caches() == {"L1d": 32 * 1024, "L2": 1024**2, "L3": 32 * 1024**2}


def test_what_the_system_hides_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_DIRECTORY", tmp_path / "none")
    monkeypatch.setattr(topology, "CPUS", tmp_path / "none")
    facts = describe_machine()
    assert (facts.governor, facts.boost) == (None, None)
    assert facts.caches == {} or platform.system() == "Darwin"


@pytest.mark.parametrize("version", [1, 2])
def test_tightest_limit_of_the_containers_around_counts(
    version: Literal[1, 2], cgroups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used, caches = machine.GROUP_MEMORY[version]
    cgroups.mount(version, "cpu,memory")
    cgroups.enter("/pod/job")
    outer = {limit: str(2 * GIB), used: str(GIB), "memory.stat": f"anon 1\n{caches} {GIB // 4}\n"}
    inner = {limit: "max" if version == 2 else str(2**62), used: str(GIB // 2), "memory.stat": ""}
    cgroups.write("/pod", outer)
    cgroups.write("/pod/job", inner)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * GIB, available=6 * GIB))
    assert total_memory_bytes() == 2 * GIB
    assert available_memory_bytes() == GIB + GIB // 4
