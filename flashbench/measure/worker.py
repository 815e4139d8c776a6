"""The parent's side of a worker, a child process for workloads that may crash, hang or use up all memory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Any, BinaryIO

import msgspec
import psutil

from flashbench.measure.cpu import CpuUse
from flashbench.measure.memory import PeakMemory
from flashbench.measure.process import THREAD_VARIABLES
from flashbench.measure.protocol import (
    PROTOCOL_VERSION,
    AnyRequest,
    Check,
    Facts,
    Hello,
    MeasureMemory,
    Prepare,
    Release,
    Reply,
    Request,
    Status,
    TimeBurst,
)
from flashbench.measure.timing import Burst
from flashbench.system.affinity import on_process_cores
from flashbench.system.cgroup import ThrottleMeter
from flashbench.texts import to_json

# The child imports from the parent's paths, whether flashbench is installed or not. Another interpreter
# imports from its own environment. Neither imports from the current directory, which may hold a json.py: this
# code removes the empty path, which `python -c` puts first, before any import (`-P` needs Python 3.11).
BOOTSTRAP = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "import json; sys.path[:] = json.loads(sys.argv[1]) or sys.path; "
    "from flashbench.measure.child import main; main(int(sys.argv[2]))"
)
# How long a thread pool may spin after its last call; LLVM's OpenMP spins for 200 ms.
SPIN_S = 0.25
DEATH_S = 2.0  # how long a child may take to end after it closes its pipe
LAST_WORDS_BYTES = 4096
REPLY = b'{"status":'  # how a reply begins; other lines come from a wrapper script
SHELL_SIGNALS = 128  # a shell exits with this plus the signal's number if a signal killed its command
MOST_SIGNALS = 64  # larger codes, such as 255, are ordinary exit codes
ACTIVITY: dict[type[Request], str] = {
    Hello: "while it started",
    Facts: "while it described itself",
    Prepare: "in its first call",
    TimeBurst: "while being timed",
    MeasureMemory: "while its memory was measured",
    Check: "while being checked",
    Release: "while giving memory back",
}


class WorkerFailure(Exception):  # noqa: N818 - not the parent's error: a finding about the workload
    """A request failed. The worker is dead afterwards, unless `status` is "unsupported"."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Worker:
    """A child process with its own thread settings; use it as a context manager.

    Requests raise WorkerFailure. A failure never ends the parent. The death of the parent ends the child.
    """

    @on_process_cores()  # not only on the core that this thread may be bound to
    def __init__(self, threads: int, *, timeout_s: float, python: str | None = None) -> None:
        """Start the child. Its environment sets every library to `threads` threads.

        `python` is another environment's interpreter, whose own flashbench then serves. Raises OSError
        when it cannot be started. It may be a script that starts the interpreter in a process of its own.
        """
        self.timeout_s = timeout_s
        self._stopped = False
        self._owes_answer = False  # stays True if an exception ends the parent's wait
        # Whether the process we start is the interpreter itself. Another interpreter says so by its pid.
        self._direct = python is None
        self._out_of_memory_kills = _out_of_memory_kills()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        try:
            self._process = subprocess.Popen(
                [
                    python or sys.executable,
                    "-c",
                    BOOTSTRAP,
                    json.dumps([] if python else [os.fspath(path) for path in sys.path if path]),
                    str(os.getpid()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        except OSError:
            self._stderr.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True).start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The owner left before `close`, by the second of two signals whose handlers raise.
        if hasattr(self, "_process") and self._process.returncode is None:
            self.close()

    @property
    def alive(self) -> bool:
        """Whether requests can still be made. A child that owes an answer would give the old one."""
        return not self._owes_answer and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def hello(self, modules: Sequence[str] = ()) -> None:
        """Make the child import modules, and check that it speaks this protocol."""
        answer = self._ask(Hello("", list(modules)))
        self._direct = answer.get("pid", self.pid) == self.pid
        protocol = answer.get("protocol")
        if protocol != PROTOCOL_VERSION:
            self.kill()
            raise WorkerFailure(
                "crashed", f"its flashbench speaks protocol {protocol}, this one {PROTOCOL_VERSION}"
            )

    def facts(self) -> dict[str, Any]:
        """The child's interpreter, settings and pools: see `flashbench.measure.process`."""
        return self._ask(Facts(""))

    def prepare(
        self, slot: str, factory: str, arguments: dict[str, Any], *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Build a workload in the child under the name `slot`, call it once and return its description.

        `timeout_s`: for this one request, instead of the worker's own.
        """
        return self._ask(Prepare(slot, factory, arguments), timeout_s)

    def time(
        self, slot: str, repeats: int, *, at_least_ns: int = 0, at_most: int = 50, cold: bool = False
    ) -> Burst:
        """Single calls in one burst: see `flashbench.measure.timing.burst`. `cold`: with empty caches."""
        meter = ThrottleMeter()  # here: the child is in our groups, and its flashbench may be an older one
        answer = self._ask(TimeBurst(slot, repeats, at_least_ns, at_most, cold))
        cpu = CpuUse(*answer["cpu"])._replace(throttled_periods=meter.read())
        return Burst(answer["samples_ns"], cpu, answer["joules_per_call"])

    def memory(self, slot: str) -> PeakMemory:
        """Peak memory of one call: see `flashbench.measure.memory.PeakMemory`."""
        return PeakMemory(**self._ask(MeasureMemory(slot)))

    def check(self, slot: str) -> dict[str, Any]:
        """How exact the last call was, in the workload's own terms."""
        return self._ask(Check(slot))

    def release(self, slot: str) -> None:
        """Make the child drop a workload and free its memory."""
        self._ask(Release(slot))

    def rest(self) -> None:
        """Keep the child off the cores until its next request, even if its thread pools spin.

        Linux stops the process. Elsewhere, and behind a wrapper script, a stopped child could outlive a
        killed parent, so this waits until the pools stop spinning.
        """
        if sys.platform == "linux" and self._direct:
            self._stopped = True  # first, since a needless SIGCONT does no harm
            self._signal(signal.SIGSTOP)
        else:
            sleep(SPIN_S)

    def kill(self) -> None:
        """End the child and what it started, at once; raise a signal handler's exception only afterwards."""
        interrupt: BaseException | None = None
        while self._process.returncode is None:
            try:
                self._send_kill()
                self._close_requests()  # a process that survives sees the end of its input
                self._process.wait()
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _send_kill(self) -> None:
        if sys.platform == "win32":
            self._process.kill()
            return
        wrapped = [] if self._direct else self._descendants()
        self._signal(signal.SIGKILL)
        for process in wrapped:  # includes those that timeout(1) or setsid(1) moved to another group
            with contextlib.suppress(psutil.Error):  # gone, or another user's: the end of its input ends it
                process.kill()

    def close(self) -> None:
        """End the child. It has nothing to save."""
        try:
            self.kill()
        finally:
            self._close_requests()
            self._stderr.close()

    def _close_requests(self) -> None:
        try:
            self._requests.close()
        except OSError as error:
            # A dead child did not read the rest of a request. Windows says EINVAL.
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise

    def _ask(self, request: AnyRequest, timeout_s: float | None = None) -> dict[str, Any]:
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        self._resume()
        self._owes_answer = True
        try:
            self._requests.write(to_json(request) + b"\n")
            self._requests.flush()
        except TimeoutError:  # a signal handler's, for a deadline
            self.kill()
            raise
        except OSError:  # it died since its last reply
            raise self._death(request) from None
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.kill()
            reason = f"no answer after {timeout_s:g} s {ACTIVITY[type(request)]}"
            raise WorkerFailure("timeout", reason) from None
        except BaseException:  # Ctrl-C: nobody will read the answer to this request
            self.kill()
            raise
        if line is None:
            raise self._death(request)
        self._owes_answer = False
        reply = msgspec.json.decode(line, type=Reply)
        if reply.status == "ok":
            return reply.data
        if reply.status != "unsupported":
            self.kill()  # an error may leave a state that must not be measured
        raise WorkerFailure(reply.status, reply.reason or reply.status)

    def _death(self, request: AnyRequest) -> WorkerFailure:
        try:
            code = self._process.wait(DEATH_S)
        except subprocess.TimeoutExpired:  # it closed its pipe but still runs
            self.kill()
            code = self._process.returncode
        of_a_shell = SHELL_SIGNALS < code <= SHELL_SIGNALS + MOST_SIGNALS
        if of_a_shell and not self._direct and sys.platform != "win32":
            code = SHELL_SIGNALS - code
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"left with exit code {code:#x}"
        how = f"{how} {ACTIVITY[type(request)]}"
        if "SIGKILL" in how and _out_of_memory_kills() > self._out_of_memory_kills:
            return WorkerFailure("out_of_memory", f"{how}: the system had run out of memory")
        words = self._last_words()
        return WorkerFailure("crashed", f"{how}: {words}" if words else how)

    def _last_words(self) -> str:
        """The last line that the dead child wrote to stderr."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - LAST_WORDS_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def _resume(self) -> None:
        if self._stopped:
            self._signal(signal.SIGCONT)
            self._stopped = False

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        """Signal the child and what it started; nothing if it is gone already."""
        if self._process.poll() is None:
            # It ended just now; on macOS also: it ended, and nobody has waited for it yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _read_lines(pipe: BinaryIO, lines: queue.SimpleQueue[bytes | None]) -> None:
    """Queue the child's replies, then None. A thread runs this, since a pipe's readline has no timeout."""
    with pipe:
        for line in pipe:
            begin = line.find(REPLY)  # after text that a wrapper script printed without a newline
            if begin >= 0:
                lines.put(line[begin:])
    lines.put(None)


def _out_of_memory_kills() -> int:
    """How many processes Linux has killed for lack of memory, containers included; 0 if unknown."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in counters.splitlines() if line.startswith("oom_kill "))
