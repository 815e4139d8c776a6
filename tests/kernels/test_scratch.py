"""A thread's scratch: what is declared is what a kernel uses, and it writes nowhere else."""

import msgspec
import numpy as np
import pytest

from flashbench.codegen.scratch import ALIGNMENT, Part, ScratchLayout, aligned
from flashbench.codegen.structs import Storage
from flashbench.engines import Settings, get_engine, launch
from flashbench.extras import make_extras
from flashbench.kernels.flash import scratch
from flashbench.kernels.standard.access import ROOMS
from flashbench.problem import AttentionProblem

GUARD = 4096  # bytes around each part
PATTERN = 0xA5


def test_parts_follow_each_other_from_cache_lines_on():
    layout = ScratchLayout(
        "Sample",
        Part("a", lambda n: n.block_q),
        Part("off", lambda n: n.alibi * n.block_q),
        Part("b", lambda n: 3, Storage),
    )
    sizes = scratch.ScratchSizes(16, 20, 8, 64, 64, storage_bytes=2, number_bytes=4)
    cells, size = layout.place(sizes)
    assert cells == (0, 128, 128)
    assert (cells.a, cells.b, size) == (0, 128, 192)
    cells, size = layout.place(sizes._replace(alibi=True))
    assert (cells, size) == ((0, 128, 256), 320)


@pytest.fixture
def guarded(monkeypatch, nothing_prepared):
    """Every part of every layout is followed by a guard zone that must stay as it was."""
    checks = []

    def place(self, sizes):
        offsets, zones, end = [], [], 0
        for part in self.parts:
            offsets.append(end)
            itemsize = sizes.storage_bytes if part.kind is Storage else sizes.number_bytes
            end += part.elements(sizes) * itemsize
            following = aligned(end) + GUARD
            zones.append((part.name, end, following))
            end = following
        checks.append((zones, end))
        return self.cells(*offsets), end

    def make_scratch(size):
        buffer = np.full(size + ALIGNMENT, PATTERN, dtype=np.uint8)
        address = buffer.ctypes.data
        start = -address % ALIGNMENT
        if checks and len(checks[-1]) == 2:  # placed, without memory yet; else it is no scratch of threads
            checks[-1] += (buffer, start, size)
        return buffer, address + start

    for layout in (scratch.FORWARD, scratch.BACKWARD, scratch.MASK_GRADIENT, scratch.DECODE, ROOMS):
        monkeypatch.setattr(layout, "place", place.__get__(layout))
    monkeypatch.setattr(launch, "aligned_scratch", make_scratch)
    return checks


PROBLEMS = {
    "plain": AttentionProblem.of(130),
    "causal": AttentionProblem.of(130, causal=True, num_heads=4, num_kv_heads=2),
    "features": AttentionProblem.of(
        129, window=(40, 3), softcap=3.0, alibi=True, sinks=True, dropout=0.2, head_dim=72, head_dim_v=40
    ),
    "alibi alone": AttentionProblem.of(100, alibi=True),
    "mask": AttentionProblem.of(90, mask="float", num_heads=2),
    "mask, causal": AttentionProblem.of(90, mask="float", num_heads=2, causal=True),
    "mask, alibi and softcap": AttentionProblem.of(90, mask="float", alibi=True, softcap=2.0),
    "decode": AttentionProblem.of(2, seqlen_k=700, num_heads=8, num_kv_heads=2, causal=True),
    "decode, one row": AttentionProblem.of(1, seqlen_k=300, alibi=True, softcap=2.0),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("dtype", "path"),
    [
        ("float32", None),
        ("float64", None),
        ("bfloat16", "convert"),
        ("bfloat16", "amx-emulated"),
        ("bfloat16", "dot_bf16-emulated"),
    ],
)
@pytest.mark.parametrize("by_rows", [False, True])
def test_guard_zones_stay_untouched(name, dtype, path, by_rows, guarded, monkeypatch):
    problem = msgspec.structs.replace(PROBLEMS[name], dtype=dtype)
    for direction in ("forward", "backward"):
        monkeypatch.setattr(
            f"flashbench.engines.flash.{direction}.tile_is_scattered", lambda x, rows: by_rows
        )
    engine, settings = get_engine("flash"), Settings(num_threads=2, path=path)
    q, k, v, do = problem.make_inputs()
    extras = make_extras(problem)
    forward = engine.forward(problem, settings, q, k, v, extras=extras)
    engine.backward(
        problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=problem.mask == "float"
    )
    assert len(guarded) == (3 if problem.mask == "float" else 2)
    assert_untouched(guarded)


def assert_untouched(guarded):
    for zones, stride, buffer, start, size in guarded:
        for first in range(start, start + size, stride):
            for part, zone, end in zones:
                guard = buffer[first + zone : first + end]
                assert np.all(guard == PATTERN), f"{part} is longer than declared"


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_guard_zones_of_standard_stay_untouched(name, dtype, guarded):
    problem = msgspec.structs.replace(PROBLEMS[name], dtype=dtype)
    engine, settings = get_engine("standard"), Settings(num_threads=2)
    q, k, v, do = problem.make_inputs()
    extras = make_extras(problem)
    forward = engine.forward(problem, settings, q, k, v, extras=extras, keep=True)
    engine.backward(problem, settings, do, q, k, v, forward, extras=extras)
    assert len(guarded) == 2
    assert_untouched(guarded)
