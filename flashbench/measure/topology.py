"""The cores that this process may use, what holds their clocks, and whether they are a guest's."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil

from flashbench.system.affinity import process_cores
from flashbench.system.sysfs import read_list, read_number, read_text

CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
HYPERVISOR = Path("/sys/hypervisor/type")
DMI = Path("/sys/class/dmi/id")
# Beginnings of what firmware made by hypervisors calls its maker or its product; after systemd's
# detect-virt, which also knows that Amazon's firmware is the same on whole machines, named *.metal.
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
    """Numbers of the cores that this process may run on; None where the system has no such thing."""
    cores = process_cores()
    return None if cores is None else sorted(cores)


def threads_per_core() -> int | None:
    """How many of the logical cores that this process may use share a physical one, at most."""
    allowed = affinity()
    if allowed is None:
        logical, physical = psutil.cpu_count(), psutil.cpu_count(logical=False)
        return logical // physical if logical and physical else None
    siblings = [read_list(CPUS / f"cpu{core}" / "topology" / "thread_siblings_list") for core in allowed]
    # A core is known by the first of its threads.
    return max(Counter(each[0] for each in siblings).values()) if all(siblings) and siblings else None


def governor() -> str | None:
    """What sets the clocks of the cores that this process may use, more than one where they differ."""
    found = {read_text(CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor") for core in affinity() or []}
    return ", ".join(sorted(name for name in found if name)) or None


def boost() -> bool | None:
    """Whether clocks may rise above the nominal one; None where the driver does not tell."""
    no_turbo = read_number(CPUS / "intel_pstate" / "no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    allowed = read_number(CPUS / "cpufreq" / "boost")  # acpi-cpufreq, amd-pstate
    return None if allowed is None else allowed != 0


def virtual() -> bool | None:
    """Whether this is a guest of a hypervisor; None where it cannot be told."""
    if sys.platform == "darwin":
        answer = sysctl("kern.hv_vmm_present")
        return None if answer is None else answer == "1"
    if read_text(HYPERVISOR) is not None:
        return True
    for line in (read_text(CPUINFO) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":  # x86, where every hypervisor sets a bit that no processor does
            return "hypervisor" in value.split()
    vendor, product = read_text(DMI / "sys_vendor"), read_text(DMI / "product_name")
    if product is not None and product.endswith(".metal"):
        return False
    return True if any(text and text.startswith(GUEST_NAMES) for text in (vendor, product)) else None


def sysctl(key: str) -> str | None:
    """What macOS says of itself; None for a key that it does not know."""
    answer = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
