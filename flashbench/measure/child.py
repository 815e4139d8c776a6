"""The worker process: it answers the parent's requests about its workloads until the parent ends."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import psutil

from flashbench.errors import UnsupportedError
from flashbench.measure.cold import evict_caches
from flashbench.measure.memory import measure_memory
from flashbench.measure.process import describe_process
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
    TimeBurst,
    Workload,
    build_workload,
)
from flashbench.measure.timing import burst
from flashbench.texts import to_json

PR_SET_PDEATHSIG = 1
LARGEST_HEAP_BLOCK = 32 * 1024**2 - 65536  # just below glibc's DEFAULT_MMAP_THRESHOLD_MAX


def main(parent: int) -> None:
    """Serve process `parent` over standard input and output."""
    _die_with(parent)
    _age_the_heap()
    requests, replies = private_pipes()
    decoder = msgspec.json.Decoder(AnyRequest)
    workloads: dict[str, Workload] = {}
    for line in requests:
        replies.write(to_json(answer(decoder.decode(line), workloads)) + b"\n")
        replies.flush()


def answer(request: AnyRequest, workloads: dict[str, Workload]) -> Reply:
    """Handle one request. Any exception of a workload becomes a reply."""
    try:
        return Reply("ok", None, _handle(request, workloads))
    except UnsupportedError as error:
        return Reply("unsupported", str(error))
    except MemoryError as error:
        return Reply("out_of_memory", str(error) or "MemoryError")
    except (Exception, SystemExit) as error:
        first_line = str(error).strip().partition("\n")[0]
        return Reply(
            "crashed", f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
        )


def _handle(request: AnyRequest, workloads: dict[str, Workload]) -> dict[str, Any]:
    match request:
        case Hello(modules=modules):
            for module in modules:
                importlib.import_module(module)
            return {"protocol": PROTOCOL_VERSION, "pid": os.getpid()}
        case Facts():
            return describe_process()
        case Prepare(slot=slot, factory=factory, arguments=arguments):
            workloads.pop(slot, None)
            workload = build_workload(factory, arguments)
            workload.call()
            workloads[slot] = workload
            return workload.describe()
        case TimeBurst(slot=slot, repeats=repeats, at_least_ns=at_least_ns, at_most=at_most, cold=cold):
            evict = evict_caches if cold else None
            call = workloads[slot].call
            return burst(call, repeats, at_least_ns=at_least_ns, at_most=at_most, between=evict)._asdict()
        case MeasureMemory(slot=slot):
            workload = workloads[slot]
            output_bytes = workload.describe().get("output_bytes", 0)
            return measure_memory(workload.call, output_bytes, workload.forget)._asdict()
        case Check(slot=slot):
            return workloads[slot].check()
        case Release(slot=slot):
            workloads.pop(slot, None)
            gc.collect()
            return {}


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Move the protocol's pipes away from fd 0 and 1. Afterwards fd 0 is empty and fd 1 is stderr.

    So a library that prints, from C or from Python, cannot print between two replies.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _age_the_heap() -> None:
    """Make the allocator behave as in a process that has run for a while.

    glibc maps each block of more than 128 KiB anew, and unmaps it when freed, until the first such block is
    freed. A new process that allocates the same few outputs at every call would take a thousand page faults a
    call: up to 10 % of the time at 512 tokens.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(LARGEST_HEAP_BLOCK))))


def _die_with(parent: int) -> None:
    """Make Linux kill this process when the parent dies, and kill it first when memory runs out.

    Elsewhere the end of standard input ends this process. So it does if the parent is none of our ancestors,
    because it is gone already or outside of our container.
    """
    if sys.platform != "linux":
        return
    # If a wrapper script started us without exec, this signal follows the script.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent and parent in (process.pid for process in psutil.Process().parents()):
        threading.Thread(target=_outlive_no_longer_than, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError):  # a sandbox may forbid it: then Linux may kill another process
        Path("/proc/self/oom_score_adj").write_text("1000")


def _outlive_no_longer_than(ancestor: int) -> None:
    """End this process, and the wrapper around it, once the ancestor has ended."""
    try:
        select.select([os.pidfd_open(ancestor)], [], [])  # sleeps: a loop would disturb the timings
    except ProcessLookupError:
        pass
    except (OSError, AttributeError):  # Linux before 5.3, a sandbox, or a Python built without pidfd_open
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.wait_procs([psutil.Process(ancestor)])
    os.killpg(0, signal.SIGKILL)
