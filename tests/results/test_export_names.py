"""Names of measurements: readable, unique, and made of the measurement alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest
from fake_exports import make_duel
from fake_results import make_measurement, make_results
from hypothesis import given
from hypothesis import strategies as st

from flashbench.results.export.names import benchmark_name, named
from flashbench.results.record import Measurement

# Exactly: a history kept elsewhere ends where its names change.
NAMES = {
    "flash/fwd/N:128/heads:1/head_dim:64/batch:1/float64/full/block:auto/threads:2": lambda: make_measurement(
        "flash", 128
    ),
    "standard/bwd/N:128x4096/heads:8/kv_heads:2/head_dim:64/head_dim_v:32/batch:3/float32/causal/threads:2": (
        lambda: make_measurement(
            "standard",
            128,
            direction="bwd",
            seqlen_k=4096,
            num_heads=8,
            num_kv_heads=2,
            head_dim_v=32,
            batch=3,
            dtype="float32",
            causal=True,
        )
    ),
    "numpy/fwd+bwd/N:64/heads:1/head_dim:64/batch:1/float64/causal-top-left/scale:0.1/threads:2": (
        lambda: make_measurement(
            "numpy",
            64,
            direction="fwd_bwd",
            causal=True,
            causal_alignment="top-left",
            softmax_scale=0.1,
        )
    ),
    "flash/fwd/N:128/heads:1/head_dim:64/batch:1/float64/full/block:64x128": lambda: msgspec.structs.replace(
        make_measurement("flash", 128), blocks_asked=(64, 128), threads=None
    ),
    "flash/fwd/N:512/heads:1/head_dim:64/batch:1/float64/full/block:auto/threads:2/side:b": (
        lambda: make_duel().measurements[1]
    ),
    "my-new-engine/fwd/N:1/heads:1/head_dim:64/batch:1/float64/full/threads:2": lambda: (
        msgspec.structs.replace(make_measurement("numpy", 1), engine="my/new \nengine")
    ),
}


@pytest.mark.parametrize(("name", "make"), NAMES.items(), ids=[name.split("/")[0] for name in NAMES])
def test_names_are_these(name: str, make: Callable[[], Measurement]) -> None:
    assert benchmark_name(make()) == name


def test_only_a_repetition_gets_a_number() -> None:
    rows = [make_measurement("flash", n) for n in (128, 64, 128, 128)]
    endings = [name.rsplit("/", 1)[1] for name, _ in named(make_results(rows))]
    assert endings == ["threads:2", "threads:2", "run:2", "run:3"]


@pytest.mark.parametrize("nested", [False, True])
def test_cold_caches_are_another_benchmark(nested: bool) -> None:
    config = {"study": {"cold": True}} if nested else {"cold": True}
    cold = msgspec.structs.replace(make_duel(), config=config)
    assert [name.split("threads:2")[1] for name, _ in named(cold)] == ["/cold/side:a", "/cold/side:b"] * 2


MEASUREMENTS = st.builds(
    make_measurement,
    st.sampled_from(["flash", "standard", "numpy"]),
    st.sampled_from([1, 2, 64]),
    direction=st.sampled_from(["fwd", "bwd", "fwd_bwd"]),
    seqlen_k=st.sampled_from([1, 2, 64]),
    num_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([1, 64]),
    head_dim_v=st.sampled_from([1, 64]),
    batch=st.sampled_from([1, 2]),
    dtype=st.sampled_from(["float32", "float64"]),
    causal=st.booleans(),
    causal_alignment=st.sampled_from(["bottom-right", "top-left"]),
    block=st.sampled_from([None, 16, 64]),
    softmax_scale=st.sampled_from([None, 0.1, 0.10000000000000002]),
)


@given(st.lists(MEASUREMENTS, max_size=12))
def test_names_in_a_file_are_unique(rows: list[Measurement]) -> None:
    names = [name for name, _ in named(make_results(rows))]
    assert len(set(names)) == len(names)
    assert not any(re.search(r"\s", name) for name in names)


@given(st.lists(MEASUREMENTS, max_size=6), st.lists(MEASUREMENTS, max_size=6))
def test_measurements_that_join_change_no_name(rows: list[Measurement], joining: list[Measurement]) -> None:
    before = named(make_results(rows))
    assert named(make_results(rows + joining))[: len(rows)] == before


@given(MEASUREMENTS, MEASUREMENTS)
def test_different_measurements_have_different_names(one: Measurement, other: Measurement) -> None:
    def asked(row: Measurement) -> tuple[object, ...]:
        problem = row.problem
        if not problem.causal:  # the alignment then says nothing
            problem = msgspec.structs.replace(problem, causal_alignment="bottom-right")
        return problem, row.engine, row.direction, row.blocks_asked, row.threads, row.side

    assert (benchmark_name(one) == benchmark_name(other)) == (asked(one) == asked(other))
