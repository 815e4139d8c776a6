"""Tests of inference from a formula, for tests of figures and tables."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec

from flashbench.results.record import InferenceTest, Results
from helpers.fake_results import make_results, make_time

ARMS = ("sdpa", "eager", "flash")
# Milliseconds of attention for a thousand tokens at depth 1,000; bytes of peak for each token of the cache.
_ATTENTION_MS = {"sdpa": 40.0, "eager": 80.0, "flash": 20.0}
_PEAK = {"sdpa": 100, "eager": 5000, "flash": 50}
_OTHER_MS = 60.0
WEIGHTS, CACHE = 600_000, 1_000  # bytes; the second for each token


def make_test(attention: str, test: str, depth: int, **changed: Any) -> InferenceTest:
    """Attention grows with the depth, all else does not depend on it."""
    attending = _ATTENTION_MS[attention] * (1 + depth / 1000)
    made = InferenceTest(
        model="llama-160m",
        dtype="float32",
        test=test,
        tokens=512 if test == "prefill" else 32,
        depth=depth,
        batch=1,
        attention=attention,
        threads=2,
        status="ok",
        parameters=150_000,
        weight_bytes=WEIGHTS,
        cache_bytes=CACHE * depth,
        time=make_time((attending + _OTHER_MS) * 1e6, processes=2, calls=3, spread=0.0),
        attention_ns=attending * 1e6,
        attention_share=attending / (attending + _OTHER_MS),
        peak_bytes=10_000 + _PEAK[attention] * depth,
        compared_tokens=[5, 7, 2],
        compared_leads=[0.2, 0.1, 0.3],
    )
    return msgspec.structs.replace(made, **changed)


def make_inference(**config: Any) -> Results:
    """All arms, both tests, two depths."""
    tests = [
        make_test(attention, test, depth)
        for test, depth, attention in product(("prefill", "decode"), (0, 4000), ARMS)
    ]
    return msgspec.structs.replace(make_results([]), kind="infer", inference=tests, config=config)


PLACES = [(test, depth) for test in ("prefill", "decode") for depth in (0, 4096)]


def in_rounds(slower: float, *, rounds: int = 10, **changed: Any) -> Results:
    """All arms at each of PLACES; flash takes `slower` times as long as sdpa, and has `changed`."""
    rows = []
    for test, depth in PLACES:
        for attention, times in (("sdpa", 1.0), ("eager", 3.0), ("flash", slower)):
            time = make_time(times * (8e7 + 1000 * depth), processes=rounds)
            row = make_test(attention, test, depth, time=time)
            rows.append(msgspec.structs.replace(row, **changed) if attention == "flash" else row)
    return msgspec.structs.replace(make_results([]), kind="infer", inference=rows)
