"""Names of measurements: readable, unique, and made only from the measurement."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest
from helpers.fake_exports import make_duel
from helpers.fake_results import make_measurement, make_results
from hypothesis import given
from hypothesis import strategies as st

from flashbench.results.export.names import benchmark_name, named
from flashbench.results.record import Measurement

# Names must not change: a history kept elsewhere would end.
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
    "flash/fwd/N:64/heads:1/head_dim:64/batch:1/float64/causal/window:256/softcap:50/alibi/sinks"
    "/mask:float-hqk/dropout:0.1/dropout_seed:7/key_lengths:32/page_size:16/block:auto/threads:2": lambda: (
        make_measurement(
            "flash",
            64,
            causal=True,
            window=(256, 0),
            softcap=50.0,
            alibi=True,
            sinks=True,
            mask="float",
            mask_axes="hqk",
            dropout=0.1,
            dropout_seed=7,
            key_lengths=(32,),
            page_size=16,
        )
    ),
    "numpy/fwd/N:64/heads:1/head_dim:64/batch:2/float64/full/window:128-0/varlen:16+64/threads:2": lambda: (
        make_measurement("numpy", 64, batch=2, window=(128, 0), query_lengths=(16, 64), key_lengths=(16, 64))
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
    window=st.sampled_from([(None, None), (8, None), (8, 8), (8, 0), (None, 8)]),
    softcap=st.sampled_from([None, 50.0, 0.1]),
    alibi=st.booleans(),
    sinks=st.booleans(),
    mask=st.sampled_from([None, "bool", "float", "block"]),
    mask_block_q=st.sampled_from([64, 128]),
    dropout=st.sampled_from([0.0, 0.1]),
    dropout_seed=st.sampled_from([0, 7]),
    page_size=st.sampled_from([None, 16]),
)
LENGTHS = st.integers(1, 12).flatmap(
    lambda count: st.lists(st.integers(0, 3), min_size=count, max_size=count)
)


@given(LENGTHS, LENGTHS, st.booleans())
def test_lengths_of_sequences_tell_names_apart(one: list[int], other: list[int], packed: bool) -> None:
    names = []
    for lengths in (one, other):
        sizes = {"batch": len(lengths), "key_lengths": tuple(lengths)}
        if packed:
            sizes["query_lengths"] = tuple(lengths)
        names.append(benchmark_name(make_measurement("flash", 3, **sizes)))
        assert max(map(len, names)) < 200
    assert (names[0] == names[1]) == (one == other)


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
        if not problem.causal:  # the alignment then has no meaning
            problem = msgspec.structs.replace(problem, causal_alignment="bottom-right")
        if problem.causal:  # causal makes the window's right side 0
            problem = msgspec.structs.replace(problem, window_right=None)
        if problem.mask != "block":  # the block sizes then have no meaning
            problem = msgspec.structs.replace(problem, mask_block_q=64)
        if not problem.dropout:  # the seed then has no meaning
            problem = msgspec.structs.replace(problem, dropout_seed=0)
        return problem, row.engine, row.direction, row.blocks_asked, row.threads, row.side

    assert (benchmark_name(one) == benchmark_name(other)) == (asked(one) == asked(other))
