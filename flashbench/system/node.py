"""Which machine this is, among those of a cluster."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from flashbench.system.sysfs import read_text

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def node_name() -> str:
    """The name under which results of this machine are kept: $FLASHBENCH_NODE, SLURM's name, or the host's.

    A container may have another host name at each start.
    """
    names = (os.environ.get(name) for name in ("FLASHBENCH_NODE", "SLURMD_NODENAME"))
    return next(filter(None, names), platform.node())


def machine_id() -> str:
    """The same for every process of one running machine, whatever its containers are called."""
    return read_text(BOOT_ID) or node_name()
