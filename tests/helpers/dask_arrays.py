"""Attention on dask arrays and its options, beside one machine and the oracle."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from hypothesis import strategies as st

import flashbench
from flashbench.extras import Extras
from flashbench.integrations.dask import attention, attention_backward
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from helpers.support import assert_close

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


def options_of(name: str, dtype: Any) -> dict[str, Any]:
    """The options with sinks in the accumulator of dtype."""
    options = dict(OPTIONS[name])
    if "sinks" in options and dtype is not np.float64:
        options["sinks"] = options["sinks"].astype(np.float32)
    return options


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
