"""The fixtures and settings that all tests share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_cgroups import FakeGroups
from hypothesis import settings

# The first example of a test may compile a kernel, so an example's time means nothing.
settings.register_profile("flashbench", deadline=None)
settings.load_profile("flashbench")


@pytest.fixture(scope="session", autouse=True)
def _no_tuned_blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ignore what `flashbench tune` found on this machine, also in workers."""
    before = os.environ.get("FLASHBENCH_TUNED_DIR")
    os.environ["FLASHBENCH_TUNED_DIR"] = str(tmp_path_factory.mktemp("no-tuned-blocks"))
    yield
    del os.environ["FLASHBENCH_TUNED_DIR"]
    if before is not None:
        os.environ["FLASHBENCH_TUNED_DIR"] = before


@pytest.fixture(scope="module", autouse=True)
def _own_environment(_no_tuned_blocks: None) -> Iterator[None]:
    """What a module does to the environment ends with it.

    Dask's nannies set variables of the process that starts them and leave them, also MALLOC_TRIM_THRESHOLD_,
    which changes how much memory every later process takes.
    """
    before = dict(os.environ)
    yield
    current = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    for name in current.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if current.get(name, value) != value})


@pytest.fixture(scope="module")
def oracle() -> Iterator[Any]:
    """`engine="oracle"`: has every feature, and remembers the arguments of its last call."""
    from helpers.oracle_engine import oracle_installed

    with oracle_installed() as engine:
        yield engine


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGroups]:
    """The process is only in the control groups that the test makes."""
    from flashbench.system import cgroup, cores

    groups = FakeGroups(tmp_path / "a system")
    monkeypatch.setattr(cgroup, "PROCESS", groups.process)
    cgroup._mounts.cache_clear()
    monkeypatch.setattr(cores, "_QUOTA_LASTS_S", -1.0)
    monkeypatch.setattr(cores, "_quota", None)
    yield groups
    cgroup._mounts.cache_clear()


@pytest.fixture
def nothing_prepared() -> Iterator[Callable[[], None]]:
    """Calls that were made ready before the test, or in it, are forgotten: it changes what they depend on.

    The function forgets them at once.
    """
    from flashbench.engines.flash.backward import prepared_backward
    from flashbench.engines.flash.forward import prepared_forward

    def forget() -> None:
        prepared_forward.cache_clear()
        prepared_backward.cache_clear()

    forget()
    yield forget
    forget()


@pytest.fixture
def tuned_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_prepared: Callable[[], None]
) -> Path:
    """The path of this CPU's table, in a directory of the test. The table has not been read yet."""
    from flashbench.engines.flash import tuned

    monkeypatch.setenv("FLASHBENCH_TUNED_DIR", str(tmp_path / "tuned"))
    monkeypatch.setattr(tuned, "_read", None)
    monkeypatch.setattr(tuned, "_warned", {})
    return tuned.table_path()


@pytest.fixture
def files_of_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """In `with files_of_at_most(1000)` a write past that many bytes fails, as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def repository() -> Path:
    """The checkout that the tests run in."""
    return Path(__file__).parent.parent


# In CI every extra is installed. A test skipped because of a missing package means that .ci/run forgot one.
# FLASHBENCH_TEST_EXTRAS is "all", or "all but NAME" if package NAME does not exist for that machine.
_WANTS_PACKAGE = re.compile(r"could not import|not installed|the rest of its Python needs")
_unwanted_skips: list[str] = []


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    wanted, _, but = os.environ.get("FLASHBENCH_TEST_EXTRAS", "").partition(" but ")
    if wanted != "all" or not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2]
    if _WANTS_PACKAGE.search(reason) and not (but and but in reason):
        _unwanted_skips.append(f"{report.nodeid}: {reason}")


pytest_runtest_logreport = pytest_collectreport = _note_skip


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unwanted_skips and not hasattr(session.config, "workerinput"):  # not in a worker of xdist
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _unwanted_skips:
        terminalreporter.section("FLASHBENCH_TEST_EXTRAS=all, yet skipped for want of a package", red=True)
        for line in _unwanted_skips:
            terminalreporter.line(line)
