"""The table of paths: which instructions compute the products of a dtype.

To add a path: a file here with its `Product`, and a line in `PATHS` before all slower paths.
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
    needs: frozenset[str]  # CPU features, by archspec's names; empty: every CPU can run it
    peak: str  # the probe in kernels/probes that measures its peak


# Best first.
PATHS: Mapping[str, Path] = {
    "fma": Path(FMA, ("float32", "float64"), frozenset(), "fma_burst"),
}


@functools.cache
def path_of(dtype: Dtype) -> Path:
    """The first path that supports the dtype and that the target CPU can run."""
    return next(path for path in PATHS.values() if dtype in path.dtypes and path.needs <= cpu_features())
