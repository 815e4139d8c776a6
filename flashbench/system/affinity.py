"""The cores that this process may run on, even if an OpenMP runtime has bound its main thread to one core.

Linux keeps one mask per thread, and a thread reads its own. taskset, numactl and containers set the masks of
all threads. An OpenMP runtime with a binding setting also binds the thread that loads it. So `import torch`
under OMP_PROC_BIND=close leaves a single core to the main thread, and to every thread and process that it
starts later, although the process still has the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from flashbench.errors import ConfigError
from flashbench.system.sysfs import core_ranges, read_list

ONLINE = Path("/sys/devices/system/cpu/online")
# Environment variables that make OpenMP runtimes bind threads.
BINDING_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_NO_BINDING = {"false", "none", "disabled"}  # values with which they do not bind
# Only these words of KMP_AFFINITY bind.
_KMP_BINDS = {"balanced", "compact", "disperse", "explicit", "scatter"}
# Not os.cpu_count(), as that follows $PYTHON_CPU_COUNT.
_MOST_CORES = os.sysconf("SC_NPROCESSORS_ONLN") if hasattr(os, "sysconf") else None


def binding_settings() -> dict[str, str]:
    """The variables of `BINDING_VARIABLES` that bind threads in this environment, and their values."""
    found = {name: os.environ.get(name, "").strip() for name in BINDING_VARIABLES}
    if found["OMP_PROC_BIND"].lower() == "false":  # it overrules the two variables below
        found["OMP_PLACES"] = found["GOMP_CPU_AFFINITY"] = ""
    return {name: value for name, value in found.items() if value and _binds(name, value)}


def _binds(name: str, value: str) -> bool:
    words = {word.partition("=")[0].strip() for word in value.lower().split(",")}
    return not words.isdisjoint(_KMP_BINDS) if name == "KMP_AFFINITY" else words.isdisjoint(_NO_BINDING)


def process_cores() -> frozenset[int] | None:
    """Numbers of the cores that this process may run on; None if the system has no affinity masks.

    They are the calling thread's cores. If that thread is bound to one place of an OpenMP runtime, they are
    the cores of all the runtime's places.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return None
    mask = frozenset(os.sched_getaffinity(0))
    return mask if len(mask) == _MOST_CORES else _unbound(mask)


@contextlib.contextmanager
def pinned_to(cpus: Collection[int] | None) -> Iterator[None]:
    """Within the block, the calling thread and all that it starts run on these CPUs; None: as before.

    Raises ConfigError that names the CPUs that this machine lacks, or that this process may not use.
    """
    if cpus is None:
        yield
        return
    allowed = process_cores()
    if allowed is None:
        raise ConfigError("--cpus needs Linux: this system does not pin processes to CPUs")
    if not cpus:
        raise ConfigError("cpus must name at least one CPU")
    online = read_list(ONLINE) or allowed
    for among, why in ((online, "this machine does not have"), (allowed, "this process may not use")):
        if wrong := sorted(set(cpus).difference(among)):
            raise ConfigError(
                f"--cpus names CPUs that {why}: {core_ranges(wrong)}",
                hint=f"choose from {core_ranges(allowed)}",
            )
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        _move_to(before)


@contextlib.contextmanager
def on_process_cores() -> Iterator[None]:
    """Within the block, the calling thread and all that it starts may run on all cores of the process."""
    cores = process_cores()
    before = os.sched_getaffinity(0) if cores is not None else set()
    if cores is None or cores == before:
        yield
        return
    _move_to(cores)
    try:
        yield
    finally:
        _move_to(before)


def _move_to(cores: Iterable[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except TimeoutError:  # from a signal handler, for a deadline
        raise
    except OSError:  # the process lost these cores meanwhile: the thread stays where it is
        return


@lru_cache
def _unbound(mask: frozenset[int]) -> frozenset[int]:
    """The process's cores from the calling thread's mask. Cached, as every kernel call asks: a runtime binds
    only when it is loaded, so the answer for a mask stays the same.
    """
    if not binding_settings():
        return mask
    found = mask
    for places, count in _openmp_places():
        every = frozenset().union(*places)
        # Not if len(every) > count: these places are a list of cores that ignores taskset.
        # Not if len(every) <= len(found): a second runtime, which saw only the core that the first left.
        if mask in places and len(found) < len(every) <= count:
            found = every
    return found


def _openmp_places() -> Iterator[tuple[list[frozenset[int]], int]]:
    """The places of each loaded OpenMP runtime, and how many cores the process had when it was loaded."""
    import threadpoolctl  # here, as only bound threads need it

    for info in threadpoolctl.threadpool_info():
        if info["user_api"] != "openmp":
            continue
        try:
            library = ctypes.CDLL(info["filepath"])
            places = [_cores_of(library, place) for place in range(library.omp_get_num_places())]
            yield places, library.omp_get_num_procs()
        except TimeoutError:  # from a signal handler: the cache would keep an answer without this runtime
            raise
        except (OSError, AttributeError):  # not loadable by that path, or without places
            continue


def _cores_of(library: ctypes.CDLL, place: int) -> frozenset[int]:
    count = library.omp_get_place_num_procs(place)
    numbers = (ctypes.c_int * count)()
    library.omp_get_place_proc_ids(place, numbers)
    return frozenset(numbers)
