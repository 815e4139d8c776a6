"""16-bit floats on any CPU: each tile of rows is widened to float32 in scratch, for the float32 products.

A tile of keys is read by all lanes of a tile of queries, so that the conversion is a small share of the time.
K and V cross the memory bus at half the bytes of float32.
"""

from __future__ import annotations

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.fma import FMA


@step
def _widened(x, rows, columns, room):
    """A contiguous float32 copy of the rows."""
    for r in range(rows):
        put_multiple(at(room, r * columns), at(x.at, r * x.row), columns, 1.0)
    return Matrix(room, columns)


CONVERT = FMA._replace(name="convert", keys=_widened, values=_widened, queries=_widened)
