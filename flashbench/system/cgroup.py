"""The Linux control groups of this process, version 1 or 2, and the CPU time that they allow."""

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
    """A control group of this process, or a parent of one."""

    directory: Path
    version: _Version


class _Mount(NamedTuple):
    """A mounted hierarchy of groups."""

    root: str  # the group at `directory`, as a path in the hierarchy
    directory: Path
    version: _Version
    controllers: frozenset[str]  # version 1 only


def groups(controller: Literal["cpu", "memory"]) -> Iterator[Group]:
    """The groups that may limit this controller's resource: this process's group and its visible parents."""
    mounts = _mounts(PROCESS / "mountinfo")
    for line in (read_text(PROCESS / "cgroup") or "").splitlines():
        if line.count(":") < 2:  # an unreadable line limits nothing
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
    """CPU time that this process's groups allow, in cores: the smallest quota; None: no limit."""
    found = [quota for group in groups("cpu") if (quota := _quota_of(group)) is not None]
    return min(found, default=None)


class ThrottleMeter:
    """Counts throttled periods since it was made: a group had used up its quota, and its threads waited."""

    def __init__(self) -> None:
        self._before = _throttled()

    def read(self) -> int:
        """Throttled periods so far, of the group of this process with the most."""
        counts = _throttled()
        return max((count - self._before.get(group, count) for group, count in counts.items()), default=0)


def _upwards(mount: _Mount, path: str) -> Iterator[Path]:
    """Directories from the group at `path` in the mount's hierarchy up to the mounted group."""
    group = mount.directory
    inside = mount.root.rstrip("/") + "/"
    # In a container, `path` may be the host's, while the mount is the container's own group.
    if path.startswith(inside) and ".." not in path.split("/"):
        group /= path.removeprefix(inside)
    for directory in (group, *group.parents):
        yield directory
        if directory == mount.directory:
            return


@lru_cache(maxsize=1)  # on a host of many containers the file has thousands of lines
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
    """A path from mountinfo. Linux writes a space there as `\\040`, and some other characters likewise."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _quota_of(group: Group) -> float | None:
    if group.version == 2:
        quota, _, period = (read_text(group.directory / "cpu.max") or "max").partition(" ")
    else:
        quota = read_text(group.directory / "cpu.cfs_quota_us") or "-1"
        period = read_text(group.directory / "cpu.cfs_period_us") or ""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _throttled() -> dict[Path, int]:
    """Throttled periods of each group, since the group was made."""
    found = {}
    for directory, _ in groups("cpu"):
        for line in (read_text(directory / "cpu.stat") or "").splitlines():
            name, _, count = line.partition(" ")
            if name == "nr_throttled" and count.isdigit():
                found[directory] = int(count)
    return found
