"""Calls that are made ready once: equal keys share one, no other does, and no call writes into it."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flashbench.block_mask import BlockMask
from flashbench.dtypes import accumulator_of
from flashbench.engines import Settings, get_engine
from flashbench.engines.flash.backward import prepared_backward
from flashbench.engines.flash.forward import prepared_forward
from flashbench.engines.flash.prepared import MOST_KEPT, MOST_SEQUENCES
from flashbench.engines.launch import address_of
from flashbench.extras import NO_EXTRAS, Extras, make_extras
from flashbench.problem import AttentionProblem

ENGINE = get_engine("flash")
ONE, TWO = Settings(num_threads=1), Settings(num_threads=2)


def by_rows(x: np.ndarray) -> np.ndarray:
    """The same numbers as a view of a (batch, rows, heads, columns) array."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def every_second(x: np.ndarray) -> np.ndarray:
    """The same numbers in every second column of an array: a kernel cannot read it."""
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def far_rows(x: np.ndarray) -> np.ndarray:
    """The same numbers in rows 4 KiB apart."""
    wide = np.zeros((*x.shape[:3], 4096 // x.itemsize), x.dtype)
    wide[..., : x.shape[3]] = x
    return wide[..., : x.shape[3]]


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda x: x,
    "by rows": by_rows,
    "every second column": every_second,
    "far rows": far_rows,
}


class Case:
    """A problem with its arrays. `run` gives the bytes of all results."""

    def __init__(
        self,
        problem: AttentionProblem,
        settings: Settings = ONE,
        layout: str = "as they are",
        seed: int = 0,
        extras: Extras | None = None,
    ) -> None:
        self.problem, self.settings = problem, settings
        self.arrays = [LAYOUTS[layout](x) for x in problem.make_inputs(seed)]
        self.extras = make_extras(problem, seed) if extras is None else extras

    def run(self) -> list[bytes]:
        q, k, v, do = self.arrays
        given = {"extras": self.extras}
        forward = ENGINE.forward(self.problem, self.settings, q, k, v, **given)
        found = [forward.o, forward.lse]
        if self.problem.page_size is None:
            wants = self.problem.mask == "float"
            gradients = ENGINE.backward(
                self.problem, self.settings, do, q, k, v, forward, **given, mask_gradient=wants
            )
            found += [*gradients, gradients.dsinks, gradients.dmask]
        return [b"" if x is None else x.tobytes() for x in found]


def of(*sizes: int, **changes: Any) -> AttentionProblem:
    return AttentionProblem.of(*sizes, **{"num_heads": 4, "num_kv_heads": 2, "dtype": "float32"} | changes)


def with_mask(mask: Any) -> Extras:
    return NO_EXTRAS._replace(mask=mask)


def cases() -> list[Case]:
    """Pairs of neighbours differ in one thing only."""
    rng = np.random.default_rng(3)
    plain = of(40)
    floats = rng.standard_normal((1, 4, 40, 40)).astype(np.float32)
    floats_of = of(40, mask="float", mask_axes="hqk")
    bools_of = of(40, mask="bool", mask_axes="hqk")
    blocks = [
        BlockMask.from_predicate(lambda b, h, q, k, least=least: k <= q + least, 40, 40, block=(16, 16))
        for least in (0, 9)
    ]
    block_of = of(40, mask="block", mask_axes="qk", mask_block_q=16, mask_block_k=16)
    return [
        *(Case(plain, layout=layout) for layout in LAYOUTS),
        *(Case(plain, seed=seed) for seed in (1, 2)),
        *(Case(plain, settings) for settings in (TWO, Settings(16, 24, 1), Settings(8, 24, 1))),
        Case(plain, ONE._replace(use_simd=False)),
        *(Case(of(40, dtype=dtype)) for dtype in ("float64", "float16", "bfloat16")),
        Case(of(40, dtype="bfloat16"), ONE._replace(path="convert")),
        *(Case(of(70), ONE._replace(path=path)) for path in ("fma", "amx_split-emulated")),
        *(Case(of(40, **changes)) for changes in ({"causal": True}, {"window": (5, 0)}, {"window": (6, 0)})),
        *(Case(of(40, softcap=cap)) for cap in (2.0, 3.0)),
        *(Case(of(40, softmax_scale=scale)) for scale in (0.1, 0.2)),
        *(Case(of(40, dropout=0.3, dropout_seed=seed)) for seed in (1, 2)),
        *(Case(of(40, alibi=True), extras=Extras(alibi_slopes=slopes)) for slopes in _slopes(rng)),
        *(Case(of(40, sinks=True), seed=seed) for seed in (1, 2)),
        *(Case(of(40, batch=2, key_lengths=lengths)) for lengths in ((40, 7), (40, 8))),
        *(Case(of(40, batch=2, query_lengths=(40, 3), key_lengths=lengths)) for lengths in ((9, 7), (9, 8))),
        *(Case(floats_of, extras=with_mask(mask)) for mask in (floats, -floats, by_rows(floats))),
        *(Case(bools_of, extras=with_mask(floats > least)) for least in (0, 1)),
        *(Case(block_of, extras=with_mask(mask)) for mask in blocks),
        *(
            Case(of(3, seqlen_k=n), layout=layout)
            for n in (600, 601)
            for layout in ("as they are", "by rows")
        ),
        *(Case(of(2, seqlen_k=50, batch=2, key_lengths=(50, 9), page_size=16), seed=s) for s in (1, 2)),
        *(Case(of(n, head_dim_v=40), TWO) for n in (130, 600)),
        *(Case(of(600, num_heads=2, num_kv_heads=2), TWO, layout) for layout in ("far rows", "by rows")),
        *(Case(of(200, dtype="bfloat16"), TWO, layout) for layout in ("as they are", "by rows")),
    ]


def _slopes(rng: np.random.Generator) -> list[np.ndarray]:
    slopes = rng.random((1, 4)).astype(np.float32)
    wide = np.zeros((1, 8), np.float32)
    wide[:, ::2] = slopes
    return [slopes, 2 * slopes, wide[:, ::2]]


@pytest.fixture(scope="module")
def expected() -> list[tuple[Case, list[bytes]]]:
    """Each case with its results when nothing is ready."""
    found = []
    for case in cases():
        prepared_forward.cache_clear()
        prepared_backward.cache_clear()
        found.append((case, case.run()))
    return found


def test_what_an_earlier_call_left_changes_no_bit(expected: list[tuple[Case, list[bytes]]]) -> None:
    order = list(range(len(expected)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        for index in order:
            case, results = expected[index]
            assert case.run() == results, (case.problem, case.settings)


def test_calls_at_the_same_time_have_the_bits_of_single_calls(
    expected: list[tuple[Case, list[bytes]]],
) -> None:
    wrong: list[Any] = []
    start = threading.Barrier(8)

    def storm(seed: int) -> None:
        order = random.Random(seed).choices(expected, k=60)
        start.wait()
        for case, results in order:
            if case.run() != results:
                wrong.append((case.problem, case.settings))

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_call_at_the_same_time_as_itself(expected: list[tuple[Case, list[bytes]]]) -> None:
    """All threads run the same prepared call, each with other numbers."""
    problem = of(24, causal=True)
    singles = [Case(problem, seed=seed) for seed in range(6)]
    results = [case.run() for case in singles]
    wrong = []

    def repeat(case: Case, result: list[bytes]) -> None:
        wrong.extend(1 for _ in range(200) if case.run() != result)

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(singles, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_equal_keys_share_a_prepared_call_and_other_keys_do_not(nothing_prepared: Callable[[], None]) -> None:
    problem = of(40)
    Case(problem).run()
    Case(problem, seed=1).run()
    assert [x.cache_info()[:2] for x in (prepared_forward, prepared_backward)] == [(1, 1), (1, 1)]
    for changed in (
        Case(problem, TWO),
        Case(problem, layout="by rows"),
        Case(of(41)),
        Case(of(40, causal=True)),
    ):
        misses = prepared_forward.cache_info().misses, prepared_backward.cache_info().misses
        changed.run()
        now = prepared_forward.cache_info().misses, prepared_backward.cache_info().misses
        assert now == (misses[0] + 1, misses[1] + 1)


def test_an_array_that_was_freed_is_not_read_again(nothing_prepared: Callable[[], None]) -> None:
    problem = of(40, mask="float", mask_axes="hqk", sinks=True)
    first = Case(problem, seed=1)
    first.run()
    for x in (*first.arrays, first.extras.sinks, first.extras.mask.base):
        x[...] = np.nan  # whoever still reads it shows it
    found = Case(problem, seed=2).run()
    nothing_prepared()
    assert Case(problem, seed=2).run() == found


def test_few_prepared_calls_are_kept_and_their_scratch_is_not(nothing_prepared: Callable[[], None]) -> None:
    def forward(seqlen: int) -> None:
        q, k, v, do = of(seqlen, num_heads=1, num_kv_heads=1, head_dim=8).make_inputs()
        problem = of(seqlen, num_heads=1, num_kv_heads=1, head_dim=8)
        forward = ENGINE.forward(problem, ONE, q, k, v)
        ENGINE.backward(problem, ONE, do, q, k, v, forward)

    forward(1000)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for seqlen in range(200, 200 + MOST_KEPT // 2):
        forward(seqlen)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / (MOST_KEPT // 2) < 20_000  # both directions, and what the problem itself keeps
    for seqlen in range(20, 20 + MOST_KEPT):
        forward(seqlen)
    assert prepared_forward.cache_info().currsize == MOST_KEPT
    assert prepared_backward.cache_info().currsize == MOST_KEPT


@pytest.mark.parametrize("batch", [MOST_SEQUENCES, MOST_SEQUENCES + 1])
def test_long_tables_of_sequences_are_not_kept(batch: int, nothing_prepared: Callable[[], None]) -> None:
    Case(of(20, batch=batch)).run()
    assert prepared_forward.cache_info().currsize == (batch <= MOST_SEQUENCES)


def test_results_do_not_share_memory() -> None:
    case = Case(of(40))
    q, k, v, do = case.arrays
    forwards = [ENGINE.forward(case.problem, ONE, q, k, v) for _ in range(2)]
    gradients = [ENGINE.backward(case.problem, ONE, do, q, k, v, forward) for forward in forwards]
    arrays = [x for forward in forwards for x in (forward.o, forward.lse)]
    arrays += [x for found in gradients for x in found]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations([*arrays, q, k, v, do], 2))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(3),
        np.zeros((4, 5))[1:, 2:],
        np.zeros((4, 5))[::-1],
        np.broadcast_to(np.zeros(1), (7, 7)),
        np.frombuffer(b"12345678", np.int64),
        np.zeros(()),
        np.zeros((0, 3)),
        np.zeros(3).view(np.recarray),
    ],
    ids=["own", "offset", "reversed", "broadcast", "of bytes", "of one number", "empty", "subclass"],
)
def test_addresses_are_those_that_numpy_tells(x: np.ndarray) -> None:
    assert address_of(x) == x.__array_interface__["data"][0]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_a_forked_child_runs_what_its_parent_made_ready() -> None:
    script = """
import os, sys
import numpy as np
from flashbench import attention, attention_backward
rng = np.random.default_rng(0)
shapes = [(1, 2, 9, 64), (1, 2, 70, 64), (2, 2, 300, 64)]
arrays = [[rng.standard_normal(shape, np.float32) for _ in range(4)] for shape in shapes]
def run():
    found = []
    for q, k, v, do in arrays:
        o, lse = attention(q, k, v, return_lse=True, num_threads=2)
        found += [o, lse, *attention_backward(do, q, k, v, o, lse, num_threads=2)]
    return [x.tobytes() for x in found]
expected = run()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(run() == expected for _ in range(50)) else 1)
    children.append(child)
same = all(run() == expected for _ in range(50))  # while the children run
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(0 if same and not any(codes) else 1)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_lse_has_the_accumulators_dtype() -> None:
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        q, k, v, _ = of(20, dtype=dtype).make_inputs()
        lse = ENGINE.forward(of(20, dtype=dtype), ONE, q, k, v).lse
        assert lse.dtype == accumulator_of(dtype).storage
