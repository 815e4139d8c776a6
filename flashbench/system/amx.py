"""Permission to use the tile registers of Intel AMX: Linux gives them to a process on request.

Threads and forks inherit the permission. It cannot be returned.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import sys

_ARCH_PRCTL = 158  # number of the system call on x86-64
_REQUEST_PERMISSION = 0x1023  # ARCH_REQ_XCOMP_PERM
_TILE_DATA = 18  # XFEATURE_XTILEDATA

_REASONS = {
    errno.EINVAL: "Linux knows no tile registers (before 5.16, or not for this CPU)",
    errno.ENOSYS: "the system call arch_prctl is not allowed here",
    errno.EPERM: "the system call arch_prctl is not allowed here",
    errno.ENOSPC: "the alternate signal stack of a thread is too small for tile registers",
    errno.EOPNOTSUPP: "this CPU, or its hypervisor, has no tile registers",
}


def request() -> int:
    """Ask Linux for the tile registers. Returns 0, or the error number."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0:
        return 0
    return ctypes.get_errno()


@functools.cache  # once a process
def refusal() -> str | None:
    """Why this process may not use tile registers; None: it may. The first call asks for the permission."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "tile registers are asked for on Linux on x86-64 only"
    number = request()
    return _REASONS.get(number, os.strerror(number)) if number else None
