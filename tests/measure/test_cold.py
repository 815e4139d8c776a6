"""Caches are emptied by writing more memory than they hold, on every core."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from flashbench.measure import cold
from flashbench.measure.cold import LEAST_BYTES, MOST_BYTES, evict_caches

MIB = 1024**2
GIB = 1024**3


@pytest.fixture
def fresh_buffer() -> Iterator[None]:
    cold._buffer.cache_clear()
    yield
    cold._buffer.cache_clear()


@pytest.mark.usefixtures("fresh_buffer")
@pytest.mark.parametrize(
    ("cache", "available", "size"),
    [
        (48 * MIB, 16 * GIB, 96 * MIB),
        (0, 16 * GIB, LEAST_BYTES),  # cache size not known
        (480 * MIB, 16 * GIB, MOST_BYTES),  # the caches of a big host
        (128 * MIB, GIB, GIB // 8),  # no more than an eighth of what is free
        (128 * MIB, MIB, LEAST_BYTES),
    ],
)
def test_buffer_is_twice_the_cache_within_bounds(
    cache: int, available: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "cache_bytes", lambda: cache)
    monkeypatch.setattr(cold, "available_memory_bytes", lambda: available)
    assert cold._buffer().nbytes == size


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    buffer = np.zeros(1000, np.uint8)
    monkeypatch.setattr(cold, "_buffer", lambda: buffer)
    return buffer


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs threads that can be placed: Linux")
def test_all_of_it_is_written_on_each_core_in_turn(
    small_buffer: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.sched_getaffinity(0)
    visits: list[tuple[int, set[int], int]] = []
    write_on = cold._write_on

    def watched(core: int, buffer: NDArray[np.uint8]) -> None:
        write_on(core, buffer)
        visits.append((core, os.sched_getaffinity(0), threading.get_ident()))

    monkeypatch.setattr(cold, "_write_on", watched)
    evict_caches()
    assert [core for core, _, _ in visits] == sorted(allowed)
    assert all(mask == {core} for core, mask, _ in visits)
    assert threading.get_ident() not in {thread for _, _, thread in visits}
    assert (small_buffer == len(allowed)).all()
    assert os.sched_getaffinity(0) == allowed  # this thread's mask has not changed


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs threads that can be placed: Linux")
def test_core_that_was_taken_away_is_left_out(small_buffer: NDArray[np.uint8]) -> None:
    cold._write_on(max(os.sched_getaffinity(0)) + 100_000, small_buffer)
    assert not small_buffer.any()


def test_system_without_placement_writes_once(
    small_buffer: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    evict_caches()
    assert (small_buffer == 1).all()
