"""Atomic operations for threads: tickets, counters, and waiting for each other."""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.ir import INT, const


@intrinsic
def take_ticket(typingctx: Any, counter: Any) -> Any:
    """Add one to the counter, and return its value before that. So each task goes to exactly one thread."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], const(1), "monotonic")

    return types.intp(counter), codegen


@intrinsic
def fetch_add(typingctx: Any, cell: Any, value: Any) -> Any:
    """Add value to the cell, and return the cell's value before that.

    It comes after all earlier reads and writes of this thread, and before all later ones. So the thread that
    gets the last number sees everything that the threads before it wrote.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], args[1], "seq_cst")

    return types.intp(cell, types.intp), codegen


@intrinsic
def fetch_or(typingctx: Any, cell: Any, bits: Any) -> Any:
    """Set bits of the cell, and return the cell's value before that."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("or", args[0], args[1], "monotonic")

    return types.intp(cell, types.intp), codegen


@intrinsic
def compare_exchange(typingctx: Any, cell: Any, expected: Any, value: Any) -> Any:
    """Store value in the cell if it holds `expected`. Returns whether it did. Ordered as `fetch_add` is."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        found = builder.cmpxchg(*args, "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(found, 1), context.get_value_type(types.boolean))

    return types.boolean(cell, types.intp, types.intp), codegen


@intrinsic
def publish(typingctx: Any, cell: Any, value: Any) -> Any:
    """Store value in the cell for other threads, after all earlier writes of this thread (release)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], args[0], "release", 8)
        return context.get_dummy_value()

    return types.void(cell, types.intp), codegen


def _spin_hint(builder: ir.IRBuilder) -> None:
    triple = builder.module.triple
    if triple.startswith(("x86_64", "i686", "i386")):
        signature = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, signature, "llvm.x86.sse2.pause"), [])
    elif triple.startswith(("aarch64", "arm64")):
        signature = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
        hint = cgutils.get_or_insert_function(builder.module, signature, "llvm.aarch64.hint")
        builder.call(hint, [ir.Constant(ir.IntType(32), 1)])


def _yield_processor(builder: ir.IRBuilder) -> None:
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
    signature = ir.FunctionType(ir.IntType(32), [])
    builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [])


_SPINS = 256  # some microseconds; a thread that is later than that has lost its core


@intrinsic
def wait_for(typingctx: Any, cell: Any, value: Any) -> Any:
    """Return once another thread has published at least `value` in the cell.

    It spins briefly, then yields the core between looks, so that more threads than cores still make progress.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        entry = builder.block
        look = builder.append_basic_block("look")
        early = builder.append_basic_block("early")
        spin = builder.append_basic_block("spin")
        give_way = builder.append_basic_block("give_way")
        done = builder.append_basic_block("done")
        builder.branch(look)
        builder.position_at_end(look)
        turn = builder.phi(INT)
        turn.add_incoming(const(0), entry)
        published = builder.load_atomic(args[0], "acquire", 8)
        builder.cbranch(builder.icmp_signed(">=", published, args[1]), done, early)
        builder.position_at_end(early)
        following = builder.add(turn, const(1))
        builder.cbranch(builder.icmp_signed("<", turn, const(_SPINS)), spin, give_way)
        for block, act in ((spin, _spin_hint), (give_way, _yield_processor)):
            builder.position_at_end(block)
            act(builder)
            builder.branch(look)
            turn.add_incoming(following, builder.block)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(cell, types.intp), codegen


@intrinsic
def look(typingctx: Any, cell: Any) -> Any:
    """The cell's value, which another thread may change. Pauses briefly, as callers look again in a loop."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        value = builder.load_atomic(args[0], "seq_cst", 8)
        _spin_hint(builder)
        return value

    return types.intp(cell), codegen


@intrinsic
def give_way(typingctx: Any) -> Any:
    """Yield the core to another thread."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _yield_processor(builder)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def nap(typingctx: Any) -> Any:
    """Sleep for about 50 microseconds; on Windows for a millisecond, the shortest sleep there."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        name, time = ("Sleep", 1) if sys.platform == "win32" else ("usleep", 50)
        word = ir.IntType(32)
        sleep = cgutils.get_or_insert_function(builder.module, ir.FunctionType(word, [word]), name)
        builder.call(sleep, [ir.Constant(word, time)])
        return context.get_dummy_value()

    return types.void(), codegen
