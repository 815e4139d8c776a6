"""The CPU quota of control groups is found in both versions, also in containers, and limits threads."""

from __future__ import annotations

from typing import Literal

import pytest
from helpers.fake_cgroups import FakeGroups

from flashbench.system import cgroup, cores
from flashbench.system.cgroup import ThrottleMeter, cpu_quota
from flashbench.system.cores import available_cores

Version = Literal[1, 2]
VERSIONS: list[Version] = [1, 2]


def quota_files(version: Version, quota: int | None, period: int = 100_000) -> dict[str, str]:
    if version == 2:
        return {"cpu.max": f"{'max' if quota is None else quota} {period}"}
    return {"cpu.cfs_quota_us": str(-1 if quota is None else quota), "cpu.cfs_period_us": str(period)}


def mount(groups: FakeGroups, version: Version, root: str = "/") -> None:
    """A hierarchy of version 1 may have two controllers."""
    groups.mount(version, "" if version == 2 else "cpu,cpuacct", root=root)


def test_without_control_groups_there_is_no_quota(cgroups: FakeGroups) -> None:
    assert cpu_quota() is None
    assert ThrottleMeter().read() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_group_without_a_limit_allows_all(version: Version, cgroups: FakeGroups) -> None:
    mount(cgroups, version)
    cgroups.enter("/job")
    cgroups.write("/job", quota_files(version, None))
    assert cpu_quota() is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("outer", "inner", "quota"), [(150_000, None, 1.5), (150_000, 50_000, 0.5), (None, 70_000, 0.7)]
)
def test_the_tightest_of_nested_groups_counts(
    version: Version, outer: int | None, inner: int | None, quota: float, cgroups: FakeGroups
) -> None:
    mount(cgroups, version)
    cgroups.enter("/pod/job")
    cgroups.write("/pod", quota_files(version, outer))
    cgroups.write("/pod/job", quota_files(version, inner))
    cgroups.write("/pod/job/of a child", quota_files(version, 1000))  # limits a child, not us
    assert cpu_quota() == quota


def test_a_quota_is_of_its_own_period(cgroups: FakeGroups) -> None:
    cgroups.mount(2)
    cgroups.enter("/job")
    cgroups.write("/job", quota_files(2, 30_000, 20_000))
    assert cpu_quota() == 1.5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/docker/abc", "/docker/abc"),  # the host's path; the mount shows only the container's group
        ("/", "/"),  # the container's own path
        ("/", "/../elsewhere"),  # started outside the visible groups
        ("/docker/abc", "/another"),
    ],
)
def test_in_a_container_its_own_group_is_what_is_mounted(
    version: Version, root: str, path: str, cgroups: FakeGroups
) -> None:
    mount(cgroups, version, root)
    cgroups.enter(path)
    cgroups.write(root, quota_files(version, 200_000))
    assert cpu_quota() == 2.0


def test_both_versions_beside_each_other(cgroups: FakeGroups) -> None:
    cgroups.mount(1, "memory")
    cgroups.enter("/job")
    cgroups.mount(1, "cpu")
    cgroups.enter("/job")
    cgroups.write("/job", quota_files(1, 100_000))
    cgroups.mount(2)
    cgroups.enter("/")
    assert cpu_quota() == 1.0


@pytest.mark.parametrize(
    ("quota", "threads"),
    [(50_000, 1), (100_000, 1), (150_000, 2), (800_000, 8), (1_600_000, 8), (None, 8)],
)
def test_threads_can_use_the_whole_quota_and_are_no_more(
    quota: int | None, threads: int, cgroups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "process_cores", lambda: frozenset(range(8)))
    cgroups.mount(2)
    cgroups.enter("/job")
    cgroups.write("/job", quota_files(2, quota))
    assert available_cores() == threads


def test_a_quota_that_is_changed_is_followed(cgroups: FakeGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "process_cores", lambda: frozenset(range(8)))
    cgroups.mount(2)
    cgroups.enter("/job")
    for quota in (200_000, 300_000):
        cgroups.write("/job", quota_files(2, quota))
        assert available_cores() == quota // 100_000


@pytest.mark.parametrize("version", VERSIONS)
def test_throttled_periods_count_from_the_meters_making(version: Version, cgroups: FakeGroups) -> None:
    def stat(throttled: int) -> dict[str, str]:
        return {"cpu.stat": f"nr_periods 100\nnr_throttled {throttled}\nthrottled_time 5"}

    mount(cgroups, version)
    cgroups.enter("/pod/job")
    cgroups.write("/pod", stat(1000))
    cgroups.write("/pod/job", stat(7))
    meter = ThrottleMeter()
    assert meter.read() == 0
    cgroups.write("/pod", stat(1003))
    assert meter.read() == 3
    cgroups.write("/pod/job", stat(12))
    assert meter.read() == 5  # a wait of the inner group may also count for the outer one


def test_what_this_system_says_is_understood() -> None:
    for group in (*cgroup.groups("cpu"), *cgroup.groups("memory")):
        assert group.version in VERSIONS
        assert group.directory.is_absolute()
    quota = cpu_quota()
    assert quota is None or quota > 0


def test_what_cannot_be_read_is_no_limit(cgroups: FakeGroups) -> None:
    cgroups.mount(2)
    cgroups.enter("/")
    cgroups.write("/", {"cpu.max": "150000 100000"})
    for name in ("mountinfo", "cgroup"):
        with (cgroups.process / name).open("ab") as file:
            file.write(b"99 22 0:50 / /media/us\xe9r rw - vfat /dev/sdb1 rw\nshort\n")
    assert cpu_quota() == 1.5
