"""Each thread of a call on a core of its own.

Linux starts a woken thread on the core of the thread that woke it. It may leave it there for seconds next to
an idle core, which halves the speed (observed on Linux 6.18 with two cores). So each helper looks where it
runs, and moves to a free core.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.atomics import fetch_or
from flashbench.codegen.ir import INT, const
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.system.affinity import binding_settings, process_cores
from flashbench.threads.call import ALLOWED, CORES_GIVEN, MASK_WORDS, TAKEN, Call

_IS_LINUX = sys.platform == "linux"
_WORD_BITS = 64
_MASK_BYTES = const(8 * MASK_WORDS)
_THIS_THREAD = ir.Constant(ir.IntType(32), 0)
_MOVES = 3  # two helpers that move at once may meet again


def _linux_call(builder: ir.IRBuilder, name: str, *arguments: ir.Value) -> ir.Value:
    """The result of a C function of Linux; -1 elsewhere."""
    word = ir.IntType(32)
    if not _IS_LINUX:
        return ir.Constant(word, -1)
    kind = ir.FunctionType(word, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def _current_core(typingctx: Any) -> Any:
    """The number of the core that this thread runs on; -1: the system does not tell."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.sext(_linux_call(builder, "sched_getcpu"), INT)

    return types.intp(), codegen


@intrinsic
def _get_cores(typingctx: Any, mask: Any) -> Any:
    """Read the calling thread's mask of cores into MASK_WORDS words."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _linux_call(builder, "sched_getaffinity", _THIS_THREAD, _MASK_BYTES, args[0])
        return context.get_dummy_value()

    return types.void(mask), codegen


@intrinsic
def _move(typingctx: Any, allowed: Any, taken: Any) -> Any:
    """Move the calling thread to the cores of a mask that are not in another. Returns whether it moved.

    If there is none, or the process has lost these cores meanwhile, the thread stays where it is.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        allowed, taken = args
        mask = builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(INT, MASK_WORDS)), INT.as_pointer())
        any_free: ir.Value = const(0)
        for word in map(const, range(MASK_WORDS)):
            others = builder.not_(builder.load(builder.gep(taken, [word])))
            free = builder.and_(builder.load(builder.gep(allowed, [word])), others)
            builder.store(free, builder.gep(mask, [word]))
            any_free = builder.or_(any_free, free)
        refused = _linux_call(builder, "sched_setaffinity", _THIS_THREAD, _MASK_BYTES, mask)
        moved = builder.and_(
            builder.icmp_signed("!=", any_free, const(0)),
            builder.icmp_signed("==", refused, ir.Constant(refused.type, 0)),
        )
        return builder.zext(moved, context.get_value_type(types.boolean))

    return types.boolean(allowed, taken), codegen


@step
def note_cores(call):
    """Note the caller's core as taken and, unless `give_cores` has, the cores that threads may run on."""
    for word in range(MASK_WORDS):
        at(call, TAKEN + word)[0] = 0
    if call[CORES_GIVEN] == 0:
        for word in range(MASK_WORDS):
            at(call, ALLOWED + word)[0] = 0
        _get_cores(at(call, ALLOWED))
    _take(call, _current_core())


@step
def take_core(call):
    """Move the calling helper to a free core if another thread of the call runs on its core."""
    for _ in range(_MOVES):
        if _take(call, _current_core()):
            return
        # The mask stays: the thread is ours, and next time it wakes on one of these cores.
        if not _move(at(call, ALLOWED), at(call, TAKEN)):
            return


@step
def _take(call, core):
    """Note that a thread runs on the core. Returns whether no other does; true for a core with no number."""
    if core < 0 or core >= MASK_WORDS * _WORD_BITS:
        return True
    bit = 1 << (core % _WORD_BITS)
    return fetch_or(at(call, TAKEN + core // _WORD_BITS), bit) & bit == 0


@functools.cache
def _may_be_bound() -> bool:
    return bool(binding_settings())


def give_cores(call: Call) -> None:
    """Note the cores of the process where an OpenMP runtime may have bound the caller to one of them.

    Otherwise `note_cores` reads the caller's own, which takes less time.
    """
    cores = process_cores() if _may_be_bound() else None
    call.cells[CORES_GIVEN] = cores is not None
    if cores is not None:
        mask = sum(1 << core for core in cores if core < MASK_WORDS * _WORD_BITS)
        size = MASK_WORDS * _WORD_BITS // 8
        ctypes.memmove(call.address + 8 * ALLOWED, mask.to_bytes(size, sys.byteorder), size)
