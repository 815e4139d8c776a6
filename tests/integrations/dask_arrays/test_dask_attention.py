"""Attention on dask arrays equals attention on one machine: every option, any chunks, any scheduler."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from dask.optimization import cull
from helpers.support import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

import flashbench
from flashbench.errors import AttentionError
from flashbench.extras import Extras
from flashbench.integrations.dask import attention, attention_backward
from flashbench.integrations.dask.parts import parts_of
from flashbench.integrations.dask.tasks import Setting, attend, pair_gradients
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference

BATCH, HEADS, SHARED, ROWS, KEYS, DIM, DIM_V = 2, 4, 2, 23, 31, 8, 5
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "scale": {"softmax_scale": 0.7},
    "window": {"window": (4, 2)},
    "window to the left": {"window": (6, None)},
    "window, causal": {"window": (6, 3), "causal": True},
    "softcap": {"softcap": 2.0, "causal": True},
    "alibi": {"alibi_slopes": flashbench.alibi_slopes(HEADS)},
    "alibi of each sequence": {
        "alibi_slopes": np.linspace(-0.2, 0.9, BATCH * HEADS).reshape(BATCH, HEADS),
        "causal": True,
    },
    "sinks": {"sinks": np.array([-1.0, 0.0, 2.0, -np.inf])},
    "key lengths": {"key_lengths": [0, 19]},
    "key lengths, causal": {"key_lengths": [5, KEYS], "causal": True},
    "all": {
        "softmax_scale": 0.7,
        "causal": True,
        "window": (9, 0),
        "softcap": 3.0,
        "alibi_slopes": flashbench.alibi_slopes(HEADS),
        "sinks": np.arange(float(HEADS)),
        "key_lengths": [27, 6],
    },
}


class Arrays(NamedTuple):
    q: Any
    k: Any
    v: Any
    do: Any

    def chunked(self, queries: Any, keys: Any, batch: Any = -1, heads: Any = -1) -> Arrays:
        """As dask arrays, with chunks along batch, heads of q, queries and keys."""
        q, k, v, do = self
        of_q, of_k = (batch, heads, queries, -1), (batch, -1, keys, -1)
        return Arrays(*(da.from_array(x, c) for x, c in ((q, of_q), (k, of_k), (v, of_k), (do, of_q))))


def arrays(
    dtype: Any = np.float64,
    *,
    batch: int = BATCH,
    heads: int = HEADS,
    shared: int = SHARED,
    rows: int = ROWS,
    keys: int = KEYS,
) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = (batch, heads, rows, DIM), (batch, shared, keys, DIM), (batch, shared, keys, DIM_V)
    return Arrays(*(rng.standard_normal(s).astype(dtype) for s in (*shapes, (batch, heads, rows, DIM_V))))


def lazy(given: Arrays, **options: Any) -> list[Any]:
    """o, lse, dq, dk, dv, and dsinks if there are sinks."""
    q, k, v, do = given
    o, lse = attention(q, k, v, return_lse=True, **options)
    found = attention_backward(do, q, k, v, o, lse, **options)
    return [o, lse, *found, *([] if found.dsinks is None else [found.dsinks])]


def of_one_machine(given: Arrays, **options: Any) -> list[Any]:
    q, k, v, do = given
    o, lse = flashbench.attention(q, k, v, return_lse=True, **options)
    found = flashbench.attention_backward(do, q, k, v, o, lse, **options)
    return [o, lse, *found, *([] if found.dsinks is None else [found.dsinks])]


def of_the_oracle(given: Arrays, **options: Any) -> list[Any]:
    batch, heads, rows, dim = given.q.shape
    window, lengths = options.pop("window", (None, None)), options.pop("key_lengths", None)
    slopes, sinks = options.pop("alibi_slopes", None), options.pop("sinks", None)
    problem = AttentionProblem.of(
        rows, seqlen_k=given.k.shape[2], batch=batch, num_heads=heads, num_kv_heads=given.k.shape[1],
        head_dim=dim, head_dim_v=given.v.shape[3], window=window, alibi=slopes is not None,
        sinks=sinks is not None, key_lengths=None if lengths is None else tuple(lengths), **options,
    )  # fmt: skip
    extras = Extras(
        alibi_slopes=None if slopes is None else np.broadcast_to(slopes, (batch, heads)), sinks=sinks
    )
    q, k, v, do = (x.astype(np.float64) for x in given)
    o, lse = attention_reference(problem, q, k, v, extras)
    found = attention_backward_reference(problem, do, q, k, v, extras)
    return [o, lse, *found, *([] if found.dsinks is None else [found.dsinks])]


def assert_equal(found: list[Any], expected: list[Any], tolerance: float = 1e-12) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert np.array_equal(np.isneginf(mine), np.isneginf(theirs))  # lse of rows that see no key
        finite = ~np.isneginf(theirs)
        assert_close(mine[finite], theirs[finite], tolerance)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_results_are_those_of_one_machine_and_of_the_oracle(options: dict[str, Any]) -> None:
    made = arrays()
    found = dask.compute(*lazy(made.chunked(7, (3, 20, 8), batch=1, heads=2), **options))
    one = of_one_machine(made, **options)
    assert [x.dtype for x in found] == [x.dtype for x in one]
    assert_equal(found, one)
    assert_equal(found, of_the_oracle(made, **options))


@st.composite
def calls(draw: st.DrawFn) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """Arrays, the same in chunks, and options."""
    shared = draw(st.integers(1, 2))
    made = arrays(
        batch=draw(st.integers(1, 3)),
        shared=shared,
        heads=shared * draw(st.integers(1, 3)),
        rows=draw(st.integers(1, 30)),
        keys=draw(st.integers(1, 30)),
    )
    batch, heads, rows, _ = made.q.shape
    keys = made.k.shape[2]
    limits = st.none() | st.integers(0, 35)
    options = {
        "causal": draw(st.booleans()),
        "window": draw(st.tuples(limits, limits)),
        "softcap": draw(st.none() | st.just(1.5)),
        "alibi_slopes": draw(st.none() | st.just(np.linspace(0.01, 0.5, heads))),
        "sinks": draw(st.none() | st.just(np.linspace(-1.0, 1.0, heads))),
        "key_lengths": draw(st.none() | st.lists(st.integers(0, keys), min_size=batch, max_size=batch)),
    }
    cut = [
        tuple(np.diff([0, *sorted(draw(st.lists(st.integers(0, n), max_size=4))), n])) for n in (rows, keys)
    ]
    chunks = [tuple(map(int, sizes)) for sizes in cut]
    heads_of_a_chunk = draw(st.sampled_from([heads, heads // shared]))
    return made, made.chunked(*chunks, batch=draw(st.integers(1, batch)), heads=heads_of_a_chunk), options


@settings(max_examples=60)
@given(call=calls())
def test_any_chunks_give_the_same(call: tuple[Arrays, Arrays, dict[str, Any]]) -> None:
    made, chunked, options = call
    found = dask.compute(*lazy(chunked, **options), scheduler="synchronous")
    assert_equal(found, of_one_machine(made, **options))


@settings(max_examples=60)
@given(call=calls())
def test_the_graph_has_the_pairs_that_see_each_other_and_no_other(
    call: tuple[Arrays, Arrays, dict[str, Any]],
) -> None:
    made, chunked, options = call
    batch, _, rows, _ = made.q.shape
    keys = made.k.shape[2]
    lengths = np.array(options["key_lengths"] or [keys] * batch)[:, None, None]
    distance = np.arange(keys) - (np.arange(rows)[:, None] + lengths - rows)
    left, right = options["window"]
    seen = np.broadcast_to(np.arange(keys) < lengths, distance.shape).copy()
    seen &= distance <= (0 if options["causal"] else rows + keys if right is None else right)
    seen &= distance >= -(rows + keys if left is None else left)
    places = (
        [range(end - n, end) for end, n in zip(np.cumsum(sizes), sizes, strict=True) if n]
        for sizes in (chunked.q.chunks[0], chunked.q.chunks[2], chunked.k.chunks[2])
    )
    by_batch, by_rows, by_keys = places
    heads = len(chunked.q.chunks[1])
    expected = {
        (b, h, i, j)
        for b, of_b in enumerate(by_batch)
        for h in range(heads)
        for i, of_i in enumerate(by_rows)
        for j, of_j in enumerate(by_keys)
        if seen[np.ix_(of_b, of_i, of_j)].any()
    }
    o, *_, dv = lazy(chunked, **options)[:5]
    for result, name in ((o, "attention-pair"), (dv, "attention-backward-pair")):
        assert pairs_in(result.dask, name) == expected


def pairs_in(graph: Any, name: str) -> set[tuple[int, ...]]:
    """(chunk of batch, of heads, of queries, of keys) of the tasks with this name."""
    return {key[1:] for key in dict(graph) if isinstance(key, tuple) and key[0].rpartition("-")[0] == name}


def test_a_part_of_the_result_needs_only_its_own_pairs() -> None:
    made = arrays(rows=40, keys=40).chunked(10, 10)
    o = attention(made.q, made.k, made.v, causal=True)
    assert len(pairs_in(o.dask, "attention-pair")) == 10
    needed, _ = cull(dict(o.dask), [(o.name, 0, 0, 1, 0)])
    assert pairs_in(needed, "attention-pair") == {(0, 0, 1, 0), (0, 0, 1, 1)}
    moved = {key[3] for key in needed if key[0] in (made.k.name, made.v.name)}
    assert moved == {0, 1}


@pytest.mark.parametrize("name", ["causal", "window", "alibi of each sequence", "key lengths"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_reaches_who_sees_it_and_nobody_else(name: str, number: float) -> None:
    made = arrays()
    made.k[1, 0, 17, 3] = made.v[0, 1, 18, 2] = number
    found = dask.compute(*lazy(made.chunked(7, 10), **OPTIONS[name]))
    one = of_one_machine(made, **OPTIONS[name])
    assert not all(np.isfinite(x).all() for x in one[2:])
    for mine, theirs in zip(found, one, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def options_of(name: str, dtype: Any) -> dict[str, Any]:
    """The options with sinks in the accumulator of dtype."""
    options = dict(OPTIONS[name])
    if "sinks" in options and dtype is not np.float64:
        options["sinks"] = options["sinks"].astype(np.float32)
    return options


UNITS = {np.float32: 2.0**-24, ml_dtypes.bfloat16: 2.0**-8, np.float16: 2.0**-11}


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("name", ["causal", "all"])
def test_narrow_dtypes_are_rounded_once(dtype: Any, name: str) -> None:
    made, unit, options = arrays(dtype, keys=64), UNITS[dtype], options_of(name, dtype)
    found = dask.compute(*lazy(made.chunked(7, 5), **options))
    one = of_one_machine(made, **options)
    assert [x.dtype for x in found] == [x.dtype for x in one]
    o, lse = of_the_oracle(made, **options)[:2]
    np.testing.assert_allclose(found[0].astype(np.float64), o, rtol=1.01 * unit, atol=1e-6)
    np.testing.assert_allclose(found[1], lse, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(found[2:], one[2:], strict=True):
        scale = np.abs(theirs.astype(np.float64)).max()
        np.testing.assert_allclose(mine.astype(np.float64), theirs.astype(np.float64), atol=16 * unit * scale)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_every_scheduler_gives_the_same_bits(cluster: Any, dtype: Any) -> None:
    results = lazy(arrays(dtype).chunked(5, 4, batch=1), **options_of("all", dtype))
    expected = dask.compute(*results, scheduler="synchronous")
    threaded = dask.compute(*results, scheduler="threads", num_workers=3)
    of_cluster = cluster.gather(cluster.compute(results))
    for found in (threaded, of_cluster):
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.tobytes() == theirs.tobytes()


@pytest.fixture(scope="module")
def cluster() -> Any:
    """A client of two worker processes."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


def test_a_task_writes_into_nothing_that_it_gets() -> None:
    """So it may run again, on another worker or on this one."""
    made = arrays(keys=ROWS)
    problem = AttentionProblem.of(ROWS, batch=BATCH, num_heads=HEADS, num_kv_heads=SHARED, head_dim=DIM)
    parts, setting = (
        parts_of(problem, range(BATCH), range(ROWS), range(ROWS)),
        Setting("float64", 0.3, None, None),
    )
    before = attend(setting, parts, None, made.q, made.k, made.v)
    sums = made.q * 2, (made.k * 3, made.v * 4)
    for x in (*made, *before, sums[0], *sums[1]):
        x.flags.writeable = False
    o, lse = attend(setting, parts, before, made.q, made.k, made.v)
    assert_close(o, before.o, 1e-14)  # the same keys twice
    assert_close(lse, before.lse + np.log(2), 1e-14)
    dq, (dk, dv) = pair_gradients(setting, parts, *sums, made.do, made.q, made.k, made.v, *before)
    whole = flashbench.attention_backward(made.do, made.q, made.k, made.v, *before, softmax_scale=0.3)
    for mine, start, theirs in zip((dq, dk, dv), (sums[0], *sums[1]), whole, strict=True):
        assert_close(mine - start, theirs, 1e-14)


def test_equal_calls_have_equal_names_and_others_have_not() -> None:
    q, k, v, _ = arrays().chunked(7, 7)
    names = [
        attention(q, k, v, **options).name
        for options in ({}, {}, {"causal": True}, {"sinks": np.zeros(HEADS)}, {"sinks": np.ones(HEADS)})
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 4


X = da.zeros((2, 4, 10, 8), chunks=(1, 2, 3, 8))
BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "NumPy": ((X, np.zeros(X.shape), X), {}, "k must be a dask array, not ndarray"),
    "3-D": (
        (X, X, X[0]),
        {},
        "v must be 4-D (batch, num_heads, seqlen, head_dim), but has shape (4, 10, 8)",
    ),
    "head_dim": (
        (X, X[..., :4], X),
        {},
        "k must have q's batch and head_dim, but has shape (2, 4, 10, 4) where q has (2, 4, 10, 8)",
    ),
    "dtypes": (
        (X, X.astype("f4"), X),
        {},
        "k has dtype float32, q has float64: they must be the same",
    ),
    "whole numbers": (
        (X.astype(int), X, X),
        {},
        "q must be float64, float32, bfloat16 or float16, not int64",
    ),
    "heads cut inside a group": (
        (X, X[:, :1], X[:, :1]),
        {},
        "q must be chunked along num_heads in multiples of 4, the query heads that share a key head, "
        "not (2, 2)",
    ),
    "unknown sizes": (
        (X[X[:, 0, 0, 0] == 0], X, X),
        {},
        "q must have chunks of known sizes, not ((nan, nan), (2, 2), (3, 3, 3, 1), (8,))",
    ),
    "lengths": ((X, X, X), {"key_lengths": [3, 11]}, "key_lengths must be from 0 to 10, not 11 (sequence 1)"),
    "window": (
        (X, X, X),
        {"window": (-1, 0)},
        "window must be (left, right), each None or a whole number from 0 up, not (-1, 0)",
    ),
}


@pytest.mark.parametrize(("given", "options", "message"), BAD.values(), ids=BAD)
def test_a_wrong_argument_is_named(given: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttentionError) as error:
        attention(*given, **options)
    assert str(error.value) == message


def test_o_and_lse_of_other_shapes_are_named() -> None:
    with pytest.raises(AttentionError, match=r"o must have shape \(2, 4, 10, 8\) for these q, k and v"):
        attention_backward(X, X, X, X, X[:, :, 1:], X[..., 0])
    with pytest.raises(AttentionError, match=r"lse must have shape \(2, 4, 10\) for these q, k and v"):
        attention_backward(X, X, X, X, X, X[:, :, 1:, 0])


def test_help_shows_the_options() -> None:
    names = "q, k, v, *, softmax_scale=None, causal=False, window=(None, None), softcap=None, "
    names += "alibi_slopes=None, sinks=None, key_lengths=None, return_lse=False"
    parameters = inspect.signature(attention).parameters.values()
    bare = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    assert str(bare) == f"({names})"


def test_an_unknown_option_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'causl'. Did you mean 'causal'"):
        attention(X, X, X, causl=True)
