"""Attention on dask arrays equals attention on one machine: every option, any chunks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

dask = pytest.importorskip("dask")
pytest.importorskip("dask.array")

from helpers.dask_arrays import (
    OPTIONS,
    Arrays,
    arrays,
    assert_equal,
    calls,
    lazy,
    of_one_machine,
    of_the_oracle,
    options_of,
)
from hypothesis import given, settings


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_results_are_those_of_one_machine_and_of_the_oracle(options: dict[str, Any]) -> None:
    made = arrays()
    found = dask.compute(*lazy(made.chunked(7, (3, 20, 8), batch=1, heads=2), **options))
    one = of_one_machine(made, **options)
    assert [x.dtype for x in found] == [x.dtype for x in one]
    assert_equal(found, one)
    assert_equal(found, of_the_oracle(made, **options))


@settings(max_examples=60)
@given(call=calls())
def test_any_chunks_give_the_same(call: tuple[Arrays, Arrays, dict[str, Any]]) -> None:
    made, chunked, options = call
    found = dask.compute(*lazy(chunked, **options), scheduler="synchronous")
    assert_equal(found, of_one_machine(made, **options))


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
