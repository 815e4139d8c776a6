"""The cores that this process may use, what sets their clocks, and whether they are virtual."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil

from flashbench.system.affinity import process_cores
from flashbench.system.sysfs import read_list, read_number, read_text

CPUS = Path("/sys/devices/system/cpu")
NODES = Path("/sys/devices/system/node")
CPUINFO = Path("/proc/cpuinfo")
HYPERVISOR = Path("/sys/hypervisor/type")
DMI = Path("/sys/class/dmi/id")
# How the firmware of hypervisors begins its vendor or product name, after systemd's detect-virt. Amazon's
# firmware is the same on bare-metal machines, whose product is named *.metal.
GUEST_NAMES = (
    "Alibaba Cloud ECS",
    "Amazon EC2",
    "Apple Virtualization",
    "BHYVE",
    "Bochs",
    "Google Compute Engine",
    "Hyper-V",
    "KVM",
    "KubeVirt",
    "OpenStack",
    "Parallels",
    "QEMU",
    "VMW",
    "Virtual Machine",
    "VirtualBox",
    "Xen",
    "innotek GmbH",
)


def affinity() -> list[int] | None:
    """Numbers of the cores that this process may run on; None: the system has no affinity."""
    cores = process_cores()
    return None if cores is None else sorted(cores)


def threads_per_core() -> int | None:
    """At most how many of the process's logical cores share a physical core; None: unknown."""
    allowed = affinity()
    if allowed is None:
        logical, physical = psutil.cpu_count(), psutil.cpu_count(logical=False)
        return logical // physical if logical and physical else None
    siblings = [read_list(CPUS / f"cpu{core}" / "topology" / "thread_siblings_list") for core in allowed]
    # The first thread of a physical core identifies the core.
    return max(Counter(each[0] for each in siblings).values()) if all(siblings) and siblings else None


class Node(NamedTuple):
    """A NUMA node: the fields of `results.record.NumaNode`."""

    number: int
    cpus: list[int]
    memory_bytes: int | None


def numa_nodes() -> list[Node]:
    """The NUMA nodes of the machine, whatever this process may use; empty if the system does not tell."""
    found = ((int(place.name.removeprefix("node")), place) for place in NODES.glob("node[0-9]*"))
    return [
        Node(number, read_list(place / "cpulist"), _node_memory(place)) for number, place in sorted(found)
    ]


def _node_memory(node: Path) -> int | None:
    """From a line such as `Node 0 MemTotal:  8000000 kB`."""
    match = re.search(r"MemTotal:\s*(\d+) kB", read_text(node / "meminfo") or "")
    return None if match is None else 1024 * int(match[1])


def governor() -> str | None:
    """The frequency governor of the process's cores, or several if the cores differ; None: unknown."""
    found = {read_text(CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor") for core in affinity() or []}
    return ", ".join(sorted(name for name in found if name)) or None


def boost() -> bool | None:
    """Whether clocks may rise above the nominal clock; None: the driver does not say."""
    no_turbo = read_number(CPUS / "intel_pstate" / "no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    allowed = read_number(CPUS / "cpufreq" / "boost")  # acpi-cpufreq, amd-pstate
    return None if allowed is None else allowed != 0


def virtual() -> bool | None:
    """Whether this machine is a guest of a hypervisor; None: unknown."""
    if sys.platform == "darwin":
        answer = sysctl("kern.hv_vmm_present")
        return None if answer is None else answer == "1"
    if read_text(HYPERVISOR) is not None:
        return True
    for line in (read_text(CPUINFO) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":  # x86: hypervisors set a bit that processors never set
            return "hypervisor" in value.split()
    vendor, product = read_text(DMI / "sys_vendor"), read_text(DMI / "product_name")
    if product is not None and product.endswith(".metal"):
        return False
    return True if any(text and text.startswith(GUEST_NAMES) for text in (vendor, product)) else None


def sysctl(key: str) -> str | None:
    """A value of macOS's sysctl; None: an unknown key."""
    answer = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
