"""The table of paths: by which instructions the products of a dtype are computed.

To add a path: a file here with its `Product`, and its line in `PATHS`, before those that it is better than.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

from flashbench.codegen.isa import cpu_features
from flashbench.dtypes import Dtype
from flashbench.kernels.products import Product
from flashbench.kernels.products.fma import FMA


class Path(NamedTuple):
    product: Product
    dtypes: tuple[Dtype, ...]
    needs: frozenset[str]  # features of the CPU, by archspec's names; empty: any CPU has what it takes
    peak: str  # the probe in kernels/probes that measures its limit


# Best first.
PATHS: Mapping[str, Path] = {
    "fma": Path(FMA, ("float32", "float64"), frozenset(), "fma_burst"),
}


@functools.cache
def path_of(dtype: Dtype) -> Path:
    """The first path that takes the dtype and whose instructions the target CPU has."""
    return next(path for path in PATHS.values() if dtype in path.dtypes and path.needs <= cpu_features())
