"""The machine behind the figures: CPU, caches, memory, system and libraries; None: unknown."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import archspec.cpu
import psutil
import threadpoolctl

from flashbench.measure.cpu import CpuMeter, steal_share
from flashbench.measure.topology import (
    Node,
    affinity,
    boost,
    governor,
    numa_nodes,
    sysctl,
    threads_per_core,
    virtual,
)
from flashbench.system.affinity import binding_settings
from flashbench.system.cgroup import cpu_quota, groups
from flashbench.system.node import node_name
from flashbench.system.sysfs import read_text

CPU_DIRECTORY = Path("/sys/devices/system/cpu/cpu0")
# The record has the versions of the installed ones.
LIBRARIES = ("llvmlite", "memray", "numba", "numpy", "onnxruntime", "scipy", "torch", "zentorch")
# By the version of control groups: file of the limit, file of the use, and the line of memory.stat for caches
# that the kernel frees on demand.
GROUP_MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
# How long to watch other processes. The counters advance by 10 ms, 5 % of this.
OTHERS_S = 0.2


@dataclass(frozen=True)
class MachineFacts:
    """What is known without measuring; the fields of `results.record.Machine` with the same names."""

    host: str
    cpu: str
    microarchitecture: str | None
    memory_bytes: int  # of the machine, or of the container if that is less
    affinity: list[int] | None = None
    cpu_quota: float | None = None
    binding: dict[str, str] = field(default_factory=dict)
    threads_per_core: int | None = None  # of the cores that this process may use
    virtual: bool | None = None
    numa_nodes: list[Node] = field(default_factory=list)
    swap_used_bytes: int | None = None
    caches: dict[str, int] = field(default_factory=dict)  # bytes, one core's view
    governor: str | None = None
    boost: bool | None = None
    load: float | None = None  # 1-minute average
    others_cores: float | None = None  # over the last `OTHERS_S`
    steal_percent: float | None = None
    os: str | None = None
    python: str | None = None
    libraries: dict[str, str] = field(default_factory=dict)


def describe_machine() -> MachineFacts:
    """This machine now. It takes `OTHERS_S`, to see what else runs."""
    meter, load = CpuMeter(), psutil.getloadavg()[0]
    time.sleep(OTHERS_S)
    others, steal = meter.read().others_cores, steal_share()
    return MachineFacts(
        host=node_name(),
        cpu=archspec.cpu.brand_string() or platform.processor() or platform.machine(),
        microarchitecture=_microarchitecture(),
        memory_bytes=total_memory_bytes(),
        affinity=affinity(),
        cpu_quota=cpu_quota(),
        binding=binding_settings(),
        threads_per_core=threads_per_core(),
        virtual=virtual(),
        numa_nodes=numa_nodes(),
        swap_used_bytes=psutil.swap_memory().used,
        caches=_caches(),
        governor=governor(),
        boost=boost(),
        load=load,
        others_cores=others,
        steal_percent=None if steal is None else 100 * steal,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        libraries=installed_libraries(),
    )


def total_memory_bytes() -> int:
    """Memory of the machine, or the container's limit if that is less."""
    limits = [limit for limit, _ in _cgroup_memory()]
    return min([psutil.virtual_memory().total, *limits])


def available_memory_bytes() -> int:
    """What a process can allocate now without swapping, within the container's limit."""
    left = [limit - used for limit, used in _cgroup_memory()]
    return max(0, min([psutil.virtual_memory().available, *left]))


def _microarchitecture() -> str | None:
    host = archspec.cpu.host()
    name: str = host.name
    if host.vendor == "generic":
        # If a hypervisor hides one feature, archspec names a generic family. LLVM looks at the model number.
        from llvmlite.binding import get_host_cpu_name

        name = get_host_cpu_name()
    return name or None


def _caches() -> dict[str, int]:
    if sys.platform == "darwin":
        names = {"L1d": "hw.l1dcachesize", "L2": "hw.l2cachesize", "L3": "hw.l3cachesize"}
        found = {name: sysctl(key) for name, key in names.items()}
        return {name: int(size) for name, size in found.items() if size}
    caches = {}
    for directory in sorted((CPU_DIRECTORY / "cache").glob("index*")):
        level, kind, size = (read_text(directory / name) for name in ("level", "type", "size"))
        if level and size and kind != "Instruction" and size.endswith("K"):
            caches[f"L{level}" + ("d" if kind == "Data" else "")] = int(size[:-1]) * 1024
    return caches


def cache_bytes() -> int:
    """Size of the last-level cache; 0: unknown."""
    return max(_caches().values(), default=0)


def installed_libraries() -> dict[str, str]:
    """Versions of the installed `LIBRARIES`, and of the BLAS libraries that this process has loaded."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for pool in threadpoolctl.threadpool_info():  # NumPy's BLAS, once NumPy is imported
        if pool["user_api"] == "blas" and pool["version"]:
            versions[pool["internal_api"]] = pool["version"]
    return versions


def _cgroup_memory() -> list[tuple[int, int]]:
    """(limit, used) in bytes of every control group around this process that has a limit."""
    found = []
    for directory, version in groups("memory"):
        names = GROUP_MEMORY[version]
        limit, used = (read_text(directory / name) for name in names[:2])
        if limit and used and limit.isdigit():  # "max" is no limit
            found.append((int(limit), int(used) - _reclaimable(directory, names[2])))
    return found


def _reclaimable(directory: Path, name: str) -> int:
    for line in (read_text(directory / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
