"""The table of paths: which instructions compute the products of a dtype.

To add a path: a file here with its `Product`, and a line in `PATHS` before all slower paths.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from flashbench.codegen.isa import FAST_DOTS, usable_features
from flashbench.dtypes import Dtype
from flashbench.errors import ConfigError
from flashbench.kernels.products import Product
from flashbench.kernels.products.amx import AMX, AMX_EMULATED
from flashbench.kernels.products.amx_parts import (
    AMX_F16,
    AMX_F16_EMULATED,
    AMX_SPLIT,
    AMX_SPLIT_EMULATED,
)
from flashbench.kernels.products.convert import CONVERT
from flashbench.kernels.products.dot_bf16 import DOT_BF16, EMULATED_DOT_BF16
from flashbench.kernels.products.fma import FMA
from flashbench.system import amx

VARIABLE = "FLASHBENCH_PATH"
_FROM_ENVIRONMENT = os.environ.get(VARIABLE) or None


def _always() -> None:
    """No permission is needed."""


class Path(NamedTuple):
    product: Product
    dtypes: tuple[Dtype, ...]
    needs: frozenset[str]  # CPU features, by archspec's names; empty: every CPU can run it
    peak: str  # the probe in kernels/probes that measures its peak
    # Decoding reads p as it is, and rows of v in place: its time is that of memory.
    decode: Product
    # Why this process may not use the instructions; None: it may. Asked only of a path that would be used.
    refusal: Callable[[], str | None] = _always
    by_name_only: bool = False  # never chosen by itself
    # Chosen only if so many queries read each key, on average, in the forward and in the backward pass: with
    # fewer, laying out operands does not pay.
    least_readers: tuple[int, int] = (0, 0)

    @property
    def copies(self) -> bool:
        """Whether a tile of rows is copied to scratch before its products, and sums grow there."""
        return self.product is not FMA


_AMX, _DOTS = frozenset(("amx_bf16", "amx_tile")), frozenset(("avx512_bf16",))

# Best first. Emulated paths let tests run, on any CPU, what is written for instructions that few have.
PATHS: Mapping[str, Path] = {
    "amx_split": Path(
        AMX_SPLIT, ("float32",), _AMX, "fma_burst", FMA, amx.refusal, least_readers=(512, 2048)
    ),
    "fma": Path(FMA, ("float32", "float64"), frozenset(), "fma_burst", FMA),
    "amx": Path(AMX, ("bfloat16",), _AMX, "amx_burst", CONVERT, amx.refusal),
    "dot_bf16": Path(DOT_BF16, ("bfloat16",), _DOTS, "dot_bf16_burst", CONVERT, by_name_only=not FAST_DOTS),
    "amx_f16": Path(AMX_F16, ("float16",), _AMX, "amx_burst", CONVERT, amx.refusal),
    "convert": Path(CONVERT, ("float16", "bfloat16"), frozenset(), "fma_burst", CONVERT),
    "amx-emulated": Path(AMX_EMULATED, ("bfloat16",), frozenset(), "fma_burst", CONVERT, by_name_only=True),
    "amx_f16-emulated": Path(
        AMX_F16_EMULATED, ("float16",), frozenset(), "fma_burst", CONVERT, by_name_only=True
    ),
    "amx_split-emulated": Path(
        AMX_SPLIT_EMULATED, ("float32",), frozenset(), "fma_burst", FMA, by_name_only=True
    ),
    "dot_bf16-emulated": Path(
        EMULATED_DOT_BF16, ("bfloat16",), frozenset(), "fma_burst", CONVERT, by_name_only=True
    ),
}


@functools.lru_cache(maxsize=1024)  # used by every call
def path_of(dtype: Dtype, wanted: str | None = None, readers: float = 0, *, backward: bool = False) -> Path:
    """The wanted path, by name; None: the one of FLASHBENCH_PATH, else the first that the target CPU can run.

    readers: queries that read each key, on average.

    A path of FLASHBENCH_PATH that does not compute the dtype is ignored: it is meant for another dtype.
    Raises ConfigError if no path has this name, and if this CPU, or the dtype, does not go with it.
    """
    name, lenient = wanted or _FROM_ENVIRONMENT, wanted is None
    if name is not None:
        source = VARIABLE if lenient else "path"
        path = PATHS.get(name)
        if path is None:
            raise ConfigError(f"{source}: there is no path {name!r}; known: {', '.join(PATHS)}")
        if dtype in path.dtypes:
            why = obstacle(path)
            if why is not None:
                raise ConfigError(f"{source}: path {name} cannot be used: {why}")
            return path
        if not lenient:
            raise ConfigError(f"{source}: path {name} computes {', '.join(path.dtypes)}, not {dtype}")
    return PATHS[fastest_path(dtype, readers, backward=backward)]


def fastest_path(dtype: Dtype, readers: float = 0, *, backward: bool = False) -> str:
    """The name of the first path that can run here, whatever FLASHBENCH_PATH says."""
    for name, path in PATHS.items():
        chosen = dtype in path.dtypes and not path.by_name_only and readers >= path.least_readers[backward]
        if chosen and obstacle(path) is None:
            return name
    raise AssertionError(f"no path computes {dtype} on every CPU")


def obstacle(path: Path) -> str | None:
    """Why this process cannot run the path, in a few words; None: it can. May ask for a permission."""
    lacking = path.needs - usable_features()
    return f"this CPU lacks {', '.join(sorted(lacking))}" if lacking else path.refusal()


def computes(name: str, dtype: Dtype) -> bool:
    """Whether the path of that name has the dtype. Raises ConfigError if no path has this name."""
    if name not in PATHS:
        raise ConfigError(f"path: there is no path {name!r}; known: {', '.join(PATHS)}")
    return dtype in PATHS[name].dtypes
