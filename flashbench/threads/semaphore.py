"""A POSIX semaphore on which machine code sleeps. Linux only: elsewhere the pool sleeps in Python."""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

IS_USABLE = sys.platform == "linux"
CELLS = 8  # of 8 bytes; C's sem_t is 32 bytes long


def _on_semaphore(name: str, *numbers: int) -> Any:
    """The C function `name` of a semaphore and some numbers. It does nothing where it is not usable."""
    word, byte = ir.IntType(32), ir.IntType(8).as_pointer()

    @intrinsic
    def act(typingctx: Any, place: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            if IS_USABLE:
                kind = ir.FunctionType(word, [byte, *[word] * len(numbers)])
                function = cgutils.get_or_insert_function(builder.module, kind, name)
                given = [ir.Constant(word, number) for number in numbers]
                builder.call(function, [builder.bitcast(args[0], byte), *given])
            return context.get_dummy_value()

        return types.void(place), codegen

    return act


begin = _on_semaphore("sem_init", 0, 0)  # of this process, with the value 0
post = _on_semaphore("sem_post")
wait = _on_semaphore("sem_wait")  # a signal may end it early
