"""The first pass of the online softmax alone, for products that make p from scores themselves.

As in softmax.py, queries are lanes. The second pass is products/exponentiate.py.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import (
    BOOL,
    INT,
    full_vector,
    function,
    overload,
    splat,
    store,
)
from flashbench.kernels.tile.softmax import Lanes, for_lane_groups, raise_maximum

_FLOAT = ir.FloatType()
_VECTOR = full_vector(_FLOAT)
_NUMBERS = _FLOAT.as_pointer()


def _maximum(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, rows, lanes, row_max, row_sum, rescale, factor = args
        grew_at = b.alloca(BOOL)
        b.store(ir.Constant(BOOL, 0), grew_at)
        factors = splat(b, factor, _VECTOR.count)
        state = Lanes(s, lanes, rows, row_max, row_sum, rescale, grew_at, factors)

        def group(offsets: list[ir.Value]) -> None:
            _, totals = raise_maximum(b, state, _VECTOR, offsets)
            for offset, total in zip(offsets, totals, strict=True):
                store(b, total, row_sum, offset)

        for_lane_groups(b, lanes, _VECTOR, group)
        b.ret(b.load(grew_at))

    signature = [_NUMBERS, INT, INT, _NUMBERS, _NUMBERS, _NUMBERS, _FLOAT]
    return function(builder, f"fb.maximum.{overload(_VECTOR)}", signature, body, result=BOOL)


@intrinsic
def put_maximum(typingctx: Any, s: Any, rows: Any, lanes: Any, lane_state: Any, factor: Any) -> Any:
    """The first pass of an online softmax step: row_max and rescale, and row_sum under the new maximum.

    Arguments and result: see `online_softmax`; factor is a number, and positive.
    """
    signature = types.boolean(s, types.intp, types.intp, lane_state, types.float32)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        grew = builder.call(_maximum(builder), spread(builder, args))
        return context.cast(builder, grew, types.boolean, types.boolean)

    return signature, codegen
