"""A worker measures in its own process, and survives any failure there."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers import fake_workloads
from helpers.fake_cgroups import FakeGroups

from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.system import affinity

FAKES = fake_workloads.__name__
# On Windows no signal can end a process.
DEATHS_BY_SIGNAL = [
    ("segfault", "crashed", "killed by SIGSEGV while being timed"),
    ("sigkill", "crashed", "killed by SIGKILL while being timed"),
    ("abort", "crashed", "killed by SIGABRT while being timed: terminate called for a test"),
]


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(1, timeout_s=20) as worker:
        yield worker


def prepare(worker: Worker, behaviour: str, **arguments: object) -> None:
    worker.prepare("fake", f"{FAKES}:build", {"behaviour": behaviour, **arguments})


def failure_of(worker: Worker) -> tuple[str, str]:
    with pytest.raises(WorkerFailure) as caught:
        worker.time("fake", 1)
    return caught.value.status, caught.value.reason


def test_worker_times_calls_and_discards_the_first(worker: Worker) -> None:
    prepare(worker, "sleep", seconds=0.01)
    samples = worker.time("fake", 3).samples_ns
    assert len(samples) == 3
    assert min(samples) >= 10_000_000
    assert worker.check("fake") == {"calls": 1 + 1 + 3}  # prepare, discarded, timed


def test_worker_keeps_several_workloads_until_they_are_released(worker: Worker) -> None:
    for slot in ("a", "b"):
        worker.prepare(slot, f"{FAKES}:build", {"behaviour": "sleep"})
    worker.time("a", 2)
    assert worker.check("a") == {"calls": 4}
    assert worker.check("b") == {"calls": 1}
    worker.release("a")
    worker.release("a")  # releasing it again does no harm
    assert worker.check("b") == {"calls": 1}


def test_worker_tells_every_library_its_thread_count() -> None:
    with Worker(3, timeout_s=20) as worker:
        worker.prepare("fake", f"{FAKES}:build_environment", {})
        assert set(worker.check("fake").values()) == {"3"}


def test_worker_measures_memory(worker: Worker) -> None:
    worker.prepare("fake", f"{FAKES}:build_temporaries", {"temporaries": 8192, "output": 1 << 20})
    assert worker.memory("fake").workspace_peak_bytes == pytest.approx(8192, abs=1024)


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        ("memory_error", "out_of_memory", "Unable to allocate 4.00 EiB"),
        ("unsupported", "unsupported", "head_dim must be at most 4, not 5"),
        ("error", "crashed", "ValueError: first line"),
        ("system_exit", "crashed", "SystemExit: enough"),
        ("exit", "crashed", "left with exit code 0x3 while being timed"),
        *(DEATHS_BY_SIGNAL if sys.platform != "win32" else []),
    ],
)
def test_worker_turns_a_failure_into_a_status_and_one_line(
    worker: Worker, behaviour: str, status: str, reason: str
) -> None:
    prepare(worker, behaviour)
    found_status, found_reason = failure_of(worker)
    assert found_status == status
    assert found_reason.startswith(reason)
    assert "\n" not in found_reason
    assert worker.alive == (status == "unsupported")


def test_worker_that_failed_answers_no_more(worker: Worker) -> None:
    prepare(worker, "exit")
    first = failure_of(worker)
    assert failure_of(worker) == first


def test_worker_reports_a_failure_of_the_first_call(worker: Worker) -> None:
    with pytest.raises(WorkerFailure, match=r"^ValueError: first line$"):
        worker.prepare("fake", f"{FAKES}:build_failing", {"behaviour": "error"})


def test_worker_that_hangs_is_killed_after_its_timeout() -> None:
    with Worker(1, timeout_s=10) as worker:
        prepare(worker, "sleep", seconds=3600)
        worker.timeout_s = 0.2
        assert failure_of(worker) == ("timeout", "no answer after 0.2 s while being timed")
        assert not worker.alive


def test_killed_for_want_of_memory_is_told_from_killed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(worker, "sigkill")
    monkeypatch.setattr("flashbench.measure.worker._out_of_memory_kills", lambda: 10**12)
    status, reason = failure_of(worker)
    assert status == "out_of_memory"
    assert reason == "killed by SIGKILL while being timed: the system had run out of memory"


def test_what_a_workload_prints_does_not_reach_the_protocol(worker: Worker) -> None:
    prepare(worker, "junk")
    assert len(worker.time("fake", 2).samples_ns) == 2
    assert worker.check("fake") == {"calls": 4}


def test_interrupted_parent_kills_the_child(worker: Worker) -> None:
    prepare(worker, "sleep", seconds=3600)

    interrupt = threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        worker.time("fake", 1)
    interrupt.join()
    assert not worker.alive


class Deadline(TimeoutError):  # noqa: N818 - not an error
    """The exception that signal handlers of test runners and task queues raise."""


@pytest.fixture
def deadlines() -> Iterator[Callable[..., None]]:
    """A function of a number: it starts that many signals, close together, whose handler raises."""
    left = 0

    def ring(*_: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            signal.setitimer(signal.ITIMER_REAL, 3e-4 if left else 0)
            raise Deadline

    def begin(count: int, first: float = 1e-3) -> None:
        nonlocal left
        left = count
        signal.setitimer(signal.ITIMER_REAL, first)

    before = signal.signal(signal.SIGALRM, ring)
    yield begin
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def ask_until_a_deadline(worker: Worker, deadlines: Callable[[int], None], count: int) -> None:
    with worker:
        deadlines(count)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            worker.facts()
        raise Deadline  # Python has swallowed the others, raised in destructors


@pytest.mark.filterwarnings("ignore:Exception ignored in.*File")  # of pipes whose closing was interrupted
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no interval timers")
def test_deadlines_leave_no_child_behind(deadlines: Callable[[int], None]) -> None:
    for count in range(1, 9):
        worker = Worker(1, timeout_s=20)
        worker.hello()
        child = psutil.Process(worker.pid)
        asked = met = False
        while not met or signal.getitimer(signal.ITIMER_REAL)[0]:  # until the last signal has come
            try:
                if not asked:
                    asked = True
                    ask_until_a_deadline(worker, deadlines, count)
                time.sleep(1e-3)
            except Deadline:
                met = True
        assert met
        del worker
        gc.collect()
        assert not child.is_running()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no interval timers")
def test_the_answer_to_a_request_that_was_left_is_not_taken_for_the_next_ones(
    worker: Worker, deadlines: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(worker, "sleep", seconds=0.2)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "kill", lambda: None)  # a second deadline ends kill before it does anything
        deadlines(1, first=0.1)  # while the child sleeps: the request has left
        with pytest.raises(Deadline):
            worker.time("fake", 1)
    assert not worker.alive


# Lines of a file in the current directory, where Python looks first. No worker must import it.
STRAY = "raise ImportError('a module of the current directory')"
# A script that starts its interpreter as a child. timeout(1) puts it into a new process group.
WRAPPERS = {
    "child": f'#!/bin/sh\necho welcome\n"{sys.executable}" "$@"\nexit $?\n',
    "line": f'#!/bin/sh\nprintf "loading... "\n"{sys.executable}" "$@"\nexit $?\n',
    "group": f'#!/bin/sh\ntimeout 100 "{sys.executable}" "$@"\nexit $?\n',
}


def test_settings_that_are_no_text_are_told_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", os.fsdecode(b"\xe9"))
    with Worker(1, timeout_s=60) as worker:
        assert worker.facts()["environment"]["GOMP_SPINCOUNT"] == r"\xe9"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_an_exit_code_of_a_wrappers_own_is_no_signal(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nexit 255\n")  # as ssh and docker exec do
    path.chmod(0o755)
    with Worker(1, timeout_s=60, python=str(path)) as worker:
        worker._direct = False
        with pytest.raises(WorkerFailure, match="left with exit code 0xff while it started"):
            worker.hello()


@pytest.mark.parametrize("python", [None, sys.executable])
def test_workers_import_nothing_of_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str | None
) -> None:
    for name in ("json", "re", "typing", "msgspec", "flashbench"):
        (tmp_path / f"{name}.py").write_text(STRAY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as in `python -c` and notebooks
    with Worker(1, timeout_s=60, python=python) as worker:
        worker.hello()


def test_workers_of_another_environment_keep_the_users_python_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").touch()
    monkeypatch.chdir(tmp_path)
    with Worker(1, timeout_s=60, python=sys.executable) as worker, pytest.raises(WorkerFailure):
        worker.hello(["beside"])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker(1, timeout_s=60, python=sys.executable) as worker:
        worker.hello(["beside"])


if sys.platform == "linux":

    @pytest.fixture(params=WRAPPERS)
    def wrapper(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        path = tmp_path / "python"
        path.write_text(WRAPPERS[request.param])
        path.chmod(0o755)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # where the workloads are
        return str(path)

    def test_worker_behind_a_wrapper_script_is_measured_and_killed(wrapper: str) -> None:
        with Worker(1, timeout_s=60, python=wrapper) as worker:
            worker.hello()
            worker.prepare("fake", f"{FAKES}:build_temporaries", {"temporaries": 8192, "output": 1 << 20})
            assert worker.memory("fake").workspace_peak_bytes == pytest.approx(8192, abs=1024)
            worker.rest()
            assert len(worker.time("fake", 2).samples_ns) == 2
            prepare(worker, "sleep", seconds=3600)
            behind = psutil.Process(worker.pid).children(recursive=True)
            assert behind
            worker.timeout_s = 0.2
            assert failure_of(worker) == ("timeout", "no answer after 0.2 s while being timed")
            assert psutil.wait_procs(behind, timeout=5)[1] == []

    def test_worker_behind_a_wrapper_script_tells_how_it_died(wrapper: str) -> None:
        with Worker(1, timeout_s=60, python=wrapper) as worker:
            prepare(worker, "segfault")
            status, reason = failure_of(worker)
        assert (status, reason.partition(":")[0]) == ("crashed", "killed by SIGSEGV while being timed")

    @pytest.mark.parametrize("resting", [False, True])
    def test_child_behind_a_wrapper_script_dies_with_the_parent(wrapper: str, resting: bool) -> None:
        script = (
            "import psutil, time\n"
            "from flashbench.measure.worker import Worker\n"
            f"worker = Worker(1, timeout_s=60, python={wrapper!r})\n"
            f"worker.prepare('fake', '{FAKES}:build', {{'behaviour': 'spin'}})\n"
            f"{resting} and worker.rest()\n"
            "print(*[each.pid for each in psutil.Process().children(recursive=True)], flush=True)\n"
            f"{resting} or worker.time('fake', 10**9)\n"
            "time.sleep(3600)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            behind = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
            time.sleep(0.2)  # it computes, and reads nothing
            os.kill(parent.pid, signal.SIGKILL)
        assert psutil.wait_procs(behind, timeout=5)[1] == []

    def test_resting_child_leaves_the_cores_alone(worker: Worker) -> None:
        prepare(worker, "spin")
        worker.time("fake", 1)
        child = psutil.Process(worker.pid)
        worker.rest()
        time.sleep(0.05)  # the signal takes effect
        before = child.cpu_times().user
        time.sleep(0.2)
        assert child.cpu_times().user == before
        assert worker.check("fake") == {"calls": 3}  # a request wakes it

    @pytest.mark.parametrize("resting", [False, True])
    def test_child_dies_with_its_parent(resting: bool) -> None:
        script = (
            f"import sys, time; sys.path[:] = {sys.path!r}\n"
            "from flashbench.measure.worker import Worker\n"
            "worker = Worker(1, timeout_s=20)\n"
            f"worker.prepare('fake', '{FAKES}:build', {{'behaviour': 'spin'}})\n"
            f"{resting} and worker.rest()\n"
            "print(worker.pid, flush=True)\n"
            "time.sleep(3600)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            os.kill(parent.pid, signal.SIGKILL)
        child.wait(timeout=5)
        assert not child.is_running()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs masks of threads: Linux")
def test_worker_starts_on_the_process_cores_whatever_its_starter_is_bound_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    monkeypatch.setattr(affinity, "process_cores", lambda: frozenset(before))
    try:
        os.sched_setaffinity(0, {min(before)})
        with Worker(1, timeout_s=20) as worker:
            worker.hello()
            assert set(psutil.Process(worker.pid).cpu_affinity()) == before
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_periods_in_which_a_quota_is_used_up_are_counted_while_timing(
    worker: Worker, cgroups: FakeGroups
) -> None:
    cgroups.mount(2)
    cgroups.enter("/job")
    path = cgroups.write("/job", {"cpu.stat": "nr_throttled 5"}) / "cpu.stat"
    prepare(worker, "throttled", stat=str(path))
    assert worker.time("fake", 1).cpu.throttled_periods == 3
