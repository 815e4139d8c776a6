"""The cores that this process may run on, also where an OpenMP runtime has bound its main thread to one.

Linux keeps a mask for each thread, and what one asks for is that of the calling thread. taskset, numactl and
containers set it for all. But an OpenMP runtime that is told to bind threads begins with the one that loads
it: `import torch` under OMP_PROC_BIND=close leaves the main thread, and every thread and process that it
starts from then on, a single core of those that the process still has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache

# Settings by which OpenMP runtimes bind threads, and words in them by which they do not.
BINDING_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_NO_BINDING = {"false", "none", "disabled"}
_KMP_BINDS = {"balanced", "compact", "disperse", "explicit", "scatter"}  # its other words only say more
# Not os.cpu_count(), which follows $PYTHON_CPU_COUNT.
_MOST_CORES = os.sysconf("SC_NPROCESSORS_ONLN") if hasattr(os, "sysconf") else None


def binding_settings() -> dict[str, str]:
    """What of `BINDING_VARIABLES` the environment has that asks to bind threads."""
    found = {name: os.environ.get(name, "").strip() for name in BINDING_VARIABLES}
    if found["OMP_PROC_BIND"].lower() == "false":  # which the other two of OpenMP's and GNU's do not overrule
        found["OMP_PLACES"] = found["GOMP_CPU_AFFINITY"] = ""
    return {name: value for name, value in found.items() if value and _binds(name, value)}


def _binds(name: str, value: str) -> bool:
    words = {word.partition("=")[0].strip() for word in value.lower().split(",")}
    return not words.isdisjoint(_KMP_BINDS) if name == "KMP_AFFINITY" else words.isdisjoint(_NO_BINDING)


def process_cores() -> frozenset[int] | None:
    """Numbers of the cores that this process may run on; None where the system has no such thing.

    The calling thread's, unless it is bound to a place of an OpenMP runtime: then those of all its places.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return None
    mask = frozenset(os.sched_getaffinity(0))
    return mask if len(mask) == _MOST_CORES else _unbound(mask)


@contextlib.contextmanager
def on_process_cores() -> Iterator[None]:
    """Within the block the calling thread may run on the process's cores, and so may what it starts."""
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
    except TimeoutError:  # of a signal handler, for a deadline
        raise
    except OSError:  # taken from the process meanwhile: it stays where it is
        return


@lru_cache
def _unbound(mask: frozenset[int]) -> frozenset[int]:
    """Asked in each call of a kernel, and of a mask the answer stays: runtimes bind when they are loaded."""
    if not binding_settings():
        return mask
    found = mask
    for places, count in _openmp_places():
        every = frozenset().union(*places)
        # More than the process had when the runtime was loaded: a list of cores that looks beyond taskset.
        # Few of them: a second runtime, which has seen no more than the first left it.
        if mask in places and len(found) < len(every) <= count:
            found = every
    return found


def _openmp_places() -> Iterator[tuple[list[frozenset[int]], int]]:
    """Places of each OpenMP runtime that is loaded, and how many cores the process had then."""
    import threadpoolctl  # here: it looks at every library of the process

    for info in threadpoolctl.threadpool_info():
        if info["user_api"] != "openmp":
            continue
        try:
            library = ctypes.CDLL(info["filepath"])
            places = [_cores_of(library, place) for place in range(library.omp_get_num_places())]
            yield places, library.omp_get_num_procs()
        except TimeoutError:  # of a signal handler: an answer without this runtime would be kept
            raise
        except (OSError, AttributeError):  # not to be had by that path, or without places
            continue


def _cores_of(library: ctypes.CDLL, place: int) -> frozenset[int]:
    count = library.omp_get_place_num_procs(place)
    numbers = (ctypes.c_int * count)()
    library.omp_get_place_proc_ids(place, numbers)
    return frozenset(numbers)
