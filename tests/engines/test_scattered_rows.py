"""Scattered rows, which evict each other from the cache, are gathered. Results have the same bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flashbench import attention, attention_backward, attention_varlen, attention_varlen_backward
from flashbench.engines import forms
from flashbench.engines.flash import plan
from flashbench.engines.flash.moves import Moves
from flashbench.engines.flash.plan import readers_of
from flashbench.engines.forms import Form, scattered, worth_gathering
from flashbench.kernels.call.structs import Gathers
from flashbench.problem import AttentionProblem


@pytest.mark.parametrize(
    ("row_bytes", "rows", "expected"),
    [
        (256, 64, False),  # neighbours use all sets
        (512, 64, False),  # every second group of sets, eight ways
        (1024, 64, True),
        (2048, 64, True),
        (4096, 64, True),  # all in the same sets
        (4096, 8, False),
        (4096 + 64, 64, False),  # an odd number of lines apart
        (3 * 1024, 64, True),
    ],
)
def test_which_rows_push_each_other_out(row_bytes: int, rows: int, expected: bool) -> None:
    assert scattered(row_bytes, rows) == expected


@pytest.mark.parametrize(
    ("changes", "readers"),
    [
        ({}, 64),
        ({"num_heads": 8, "num_kv_heads": 2}, 4 * 64),
        ({"causal": True}, 65 / 2),
        ({"window": (7, 0)}, 8 - 7 * 8 / 2 / 64),
        ({"batch": 3}, 64),
    ],
)
def test_how_many_queries_a_key_is_read_for(changes: dict[str, object], readers: float) -> None:
    assert readers_of(AttentionProblem.of(64, **changes)) == readers


def by_rows(x: np.ndarray) -> np.ndarray:
    """The same numbers as a view of a (batch, seqlen, heads, head_dim) array, as models have them."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def test_which_arrays_are_gathered() -> None:
    x = np.zeros((2, 8, 600, 64), np.float32)
    views = by_rows(x)
    # One head for all: a copy would be eight times as long.
    shared = np.broadcast_to(views[:, :1], views.shape)
    x_form, views_form, shared_form = (Form(a.shape, a.strides, a.itemsize) for a in (x, views, shared))
    assert worth_gathering(views_form, 600)
    assert not worth_gathering(views_form, 100)  # read too seldom
    assert not worth_gathering(x_form, 600)  # neighbours
    assert not worth_gathering(shared_form, 600)


FEATURES = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (40, 3)},
    "softcap, sinks": {"softcap": 3.0, "sinks": True},
    "mask": {"mask": True},
    "dropout": {"dropout": 0.3, "dropout_seed": 5},
    "key lengths": {"key_lengths": [150, 31]},
}


@pytest.fixture
def gathered(
    monkeypatch: pytest.MonkeyPatch, nothing_prepared: Callable[[], None]
) -> list[tuple[Gathers, int]]:
    """Gather all views. Each entry: which tiles a call copied to scratch, and how many arrays it gathered."""
    calls: list[tuple[Gathers, int]] = []
    moved: list[int] = []

    def spy_moves(*arguments, **named):
        moves = Moves(*arguments, **named)
        moved.append(len(moves.rows))
        return moves

    def spy_tiling(problem, layout, blocks, path, gathers):
        calls.append((gathers, moved[-1]))
        return plan.tiling_of(problem, layout, blocks, path, gathers)

    for direction in ("forward", "backward"):
        monkeypatch.setattr(f"flashbench.engines.flash.{direction}.Moves", spy_moves)
        monkeypatch.setattr(f"flashbench.engines.flash.{direction}.tiling_of", spy_tiling)
    monkeypatch.setattr(forms, "scattered", lambda row_bytes, rows: True)
    monkeypatch.setattr(forms, "_WORTH_GATHERING", 0)
    return calls


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_the_bits_are_those_of_neighbours(
    features: str, dtype: type, bad: float | None, gathered: list[tuple[Gathers, int]]
) -> None:
    rng = np.random.default_rng(1)
    heads, kv_heads, seqlen, head_dim, head_dim_v = 16, 8, 150, 72, 60
    q, do = (rng.standard_normal((2, heads, seqlen, d)).astype(dtype) for d in (head_dim, head_dim_v))
    k, v = (rng.standard_normal((2, kv_heads, seqlen, d)).astype(dtype) for d in (head_dim, head_dim_v))
    if bad is not None:
        v[0, 1, 7, 3] = k[1, 2, 9, 4] = q[0, 3, 11, 5] = bad
    options = dict(FEATURES[features])
    if options.pop("mask", False):
        options["mask"] = rng.random((seqlen, seqlen)) < 0.8
    if options.pop("sinks", False):
        options["sinks"] = rng.standard_normal(heads).astype(dtype)
    with np.errstate(all="ignore"):
        o, lse = attention(q, k, v, return_lse=True, **options)
        expected = o, lse, *attention_backward(do, q, k, v, o, lse, **options)
        q, k, v, do = map(by_rows, (q, k, v, do))
        o, lse = attention(q, k, v, return_lse=True, **options)
        found = o, lse, *attention_backward(do, q, k, v, o, lse, **options)
    none, sums, every = Gathers(), Gathers(sums=1), Gathers(1, 1, 1)
    assert gathered == [(none, 0), (none, 0), (sums, 2), (every, 2)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    dk, dv = found[-2:]
    assert dk.strides == k.strides  # the caller's layout, not the gathered one
    assert dv.strides == v.strides


def test_sequences_side_by_side(
    gathered: list[tuple[Gathers, int]], nothing_prepared: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    starts = [0, 70, 70, 71, 200]  # one is empty
    q, k, v, do = (rng.standard_normal((200, 6, 40), np.float32) for _ in range(4))

    def results() -> list[np.ndarray]:
        o, lse = attention_varlen(q, k, v, starts, starts, causal=True, return_lse=True)
        return [o, lse, *attention_varlen_backward(do, q, k, v, o, lse, starts, starts, causal=True)]

    found = results()
    nothing_prepared()
    monkeypatch.setattr(forms, "_WORTH_GATHERING", 1e9)
    expected = results()
    assert [moved for _, moved in gathered] == [2, 2, 0, 0]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
