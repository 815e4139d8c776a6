"""Cores, clocks and hypervisors are read from Linux's files; they are None if a file is missing."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from flashbench.measure import topology
from flashbench.measure.topology import affinity, boost, governor, numa_nodes, threads_per_core, virtual
from flashbench.system.sysfs import core_numbers, read_list, read_number, read_text

PLACES = ("CPUS", "NODES", "CPUINFO", "HYPERVISOR", "DMI")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without any file, on which this process may use the cores 0, 1 and 4."""
    for name in PLACES:
        monkeypatch.setattr(topology, name, tmp_path / name)
    monkeypatch.setattr(topology.sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 0, 1}, raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_nothing_is_told_where_nothing_is_there(root: Path) -> None:
    assert (threads_per_core(), governor(), boost(), virtual()) == (None, None, None, None)
    assert numa_nodes() == []


def test_affinity_is_what_the_system_says() -> None:
    assert affinity() == (
        psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    )


def test_system_without_affinity_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(topology.psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert affinity() is None
    assert threads_per_core() == 2
    assert governor() is None


@pytest.mark.parametrize(
    ("siblings", "threads"),
    [
        ({0: "0", 1: "1", 4: "4"}, 1),
        ({0: "0,4", 1: "1,5", 4: "0,4"}, 2),  # numbered socket by socket
        ({0: "0-1", 1: "0-1", 4: "4-5"}, 2),  # numbered core by core
        ({0: "0,8", 1: "1,9", 4: "4,12"}, 1),  # two threads per core, of which we may use one
        ({0: "0", 1: "1"}, None),
    ],
)
def test_threads_of_a_core_are_counted_among_those_we_may_use(
    siblings: dict[int, str], threads: int | None, root: Path
) -> None:
    for core, text in siblings.items():
        write(root / "CPUS" / f"cpu{core}" / "topology" / "thread_siblings_list", text)
    assert threads_per_core() == threads


def test_nodes_have_cpus_and_memory_each(root: Path) -> None:
    for number, cpus, kilobytes in ((0, "0-1,4", 2048), (1, "2-3", 1024), (10, "", 4096)):
        write(root / "NODES" / f"node{number}" / "cpulist", cpus)
        meminfo = f"Node {number} MemTotal:  {kilobytes} kB\nNode {number} MemFree: 7 kB"
        write(root / "NODES" / f"node{number}" / "meminfo", meminfo)
    write(root / "NODES" / "node2" / "cpulist", "5")  # whose memory cannot be read
    write(root / "NODES" / "possible", "0-15")
    assert numa_nodes() == [
        (0, [0, 1, 4], 2 * 1024**2),
        (1, [2, 3], 1024**2),
        (2, [5], None),
        (10, [], 4 * 1024**2),
    ]


def test_governor_is_that_of_our_cores(root: Path) -> None:
    for core, name in {0: "performance", 1: "performance", 2: "powersave", 4: "performance"}.items():
        write(root / "CPUS" / f"cpu{core}" / "cpufreq" / "scaling_governor", name)
    assert governor() == "performance"
    write(root / "CPUS" / "cpu4" / "cpufreq" / "scaling_governor", "ondemand")
    assert governor() == "ondemand, performance"


@pytest.mark.parametrize(
    ("place", "text", "on"),
    [
        ("intel_pstate/no_turbo", "0", True),
        ("intel_pstate/no_turbo", "1", False),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
    ],
)
def test_boost_is_read_from_either_driver(place: str, text: str, on: bool, root: Path) -> None:
    write(root / "CPUS" / place, text)
    assert boost() is on


@pytest.mark.parametrize(("flags", "guest"), [("fpu sse hypervisor avx", True), ("fpu sse avx", False)])
def test_x86_guests_have_a_bit_set(flags: str, guest: bool, root: Path) -> None:
    write(root / "CPUINFO", f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}")
    assert virtual() is guest


@pytest.mark.parametrize(
    ("vendor", "product", "guest"),
    [
        ("QEMU", "KVM Virtual Machine", True),
        ("Amazon EC2", "m7g.large", True),
        ("Amazon EC2", "m7g.metal", False),
        ("Microsoft Corporation", "Virtual Machine", True),
        ("Ampere", "Mt. Jade", None),
    ],
)
def test_elsewhere_the_firmware_names_its_maker(
    vendor: str, product: str, guest: bool | None, root: Path
) -> None:
    write(root / "CPUINFO", "processor\t: 0\nFeatures\t: fp asimd")
    write(root / "DMI" / "sys_vendor", vendor)
    write(root / "DMI" / "product_name", product)
    assert virtual() is guest


def test_xen_names_itself(root: Path) -> None:
    write(root / "HYPERVISOR", "xen")
    assert virtual() is True


@pytest.mark.parametrize(("answer", "guest"), [("1", True), ("0", False), (None, None)])
def test_macos_is_asked(answer: str | None, guest: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology.sys, "platform", "darwin")
    monkeypatch.setattr(topology, "sysctl", lambda key: answer if key == "kern.hv_vmm_present" else "?")
    assert virtual() is guest


def test_files_are_read_as_text_numbers_and_lists(tmp_path: Path) -> None:
    for name, text in {"number": "42", "word": "auto", "empty": "", "list": "0-2,5,7-8"}.items():
        write(tmp_path / name, text)
    assert read_text(tmp_path / "word") == "auto"
    assert read_text(tmp_path / "empty") is read_text(tmp_path / "none") is None
    assert read_number(tmp_path / "number") == 42
    assert read_number(tmp_path / "word") is read_number(tmp_path / "none") is None
    assert read_list(tmp_path / "list") == [0, 1, 2, 5, 7, 8]
    assert read_list(tmp_path / "number") == [42]
    assert read_list(tmp_path / "none") == read_list(tmp_path / "empty") == []


@pytest.mark.parametrize("text", ["", "auto", "3-1", "1-", "-1", "1-2-3", "1,,2", "+1"])
def test_what_is_no_list_of_cores_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a list of cores"):
        core_numbers(text)
