"""Linux's control groups around this process, of either version, and the CPU time that they allow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from flashbench.system.sysfs import read_text

PROCESS = Path("/proc/self")
_Version = Literal[1, 2]


class Group(NamedTuple):
    """A control group, or one around it."""

    directory: Path
    version: _Version


class _Mount(NamedTuple):
    """Where a hierarchy is to be seen, from `root` in it down."""

    root: str
    directory: Path
    version: _Version
    controllers: frozenset[str]  # of version 1


def groups(controller: Literal["cpu", "memory"]) -> Iterator[Group]:
    """The groups that may limit what the controller counts: this process's own and those around, as far as
    they are to be seen from here.
    """
    mounts = _mounts(PROCESS / "mountinfo")
    for line in (read_text(PROCESS / "cgroup") or "").splitlines():
        if line.count(":") < 2:  # what cannot be read is no limit
            continue
        hierarchy, controllers, path = line.split(":", 2)
        version: _Version = 2 if hierarchy == "0" else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.version == version and (version == 2 or controller in mount.controllers):
                yield from (Group(directory, version) for directory in _upwards(mount, path))
                break


def cpu_quota() -> float | None:
    """How many cores' time the groups around this process allow, the tightest of them; None: no limit."""
    found = [quota for group in groups("cpu") if (quota := _quota_of(group)) is not None]
    return min(found, default=None)


class ThrottleMeter:
    """Counts periods, from when it is made, in which a group's quota was used up and its threads waited."""

    def __init__(self) -> None:
        self._before = _throttled()

    def read(self) -> int:
        """So far, of the group around this process that waited most."""
        now = _throttled()
        return max((count - self._before.get(group, count) for group, count in now.items()), default=0)


def _upwards(mount: _Mount, path: str) -> Iterator[Path]:
    """From the group at `path` of the mount's hierarchy up to what is mounted."""
    group = mount.directory
    inside = mount.root.rstrip("/") + "/"
    # In a container the path may be the host's, and the mount the container's own group.
    if path.startswith(inside) and ".." not in path.split("/"):
        group /= path.removeprefix(inside)
    for directory in (group, *group.parents):
        yield directory
        if directory == mount.directory:
            return


@lru_cache(maxsize=1)  # a host of many containers has thousands of lines
def _mounts(mountinfo: Path) -> list[_Mount]:
    found = []
    for line in (read_text(mountinfo) or "").splitlines():
        fields, _, filesystem = line.partition(" - ")
        words, described = fields.split(), filesystem.split(" ", 2)
        if len(words) < 5 or len(described) < 3:
            continue
        root, directory = map(_unescaped, words[3:5])
        kind, _, options = described
        if kind == "cgroup2":
            found.append(_Mount(root, Path(directory), 2, frozenset()))
        elif kind == "cgroup":
            found.append(_Mount(root, Path(directory), 1, frozenset(options.split(","))))
    return found


def _unescaped(field: str) -> str:
    """Linux writes a space in a path as `\\040`, and some other signs alike."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _quota_of(group: Group) -> float | None:
    if group.version == 2:
        quota, _, period = (read_text(group.directory / "cpu.max") or "max").partition(" ")
    else:
        quota = read_text(group.directory / "cpu.cfs_quota_us") or "-1"
        period = read_text(group.directory / "cpu.cfs_period_us") or ""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _throttled() -> dict[Path, int]:
    """Throttled periods of each group since it was made."""
    found = {}
    for directory, _ in groups("cpu"):
        for line in (read_text(directory / "cpu.stat") or "").splitlines():
            name, _, count = line.partition(" ")
            if name == "nr_throttled" and count.isdigit():
                found[directory] = int(count)
    return found
