"""Pointers and the atomics that threads share: arrays reach a kernel as addresses and strides, C functions
as addresses.

Numba would compile a kernel anew for every mix of contiguous and strided arguments; a table of
addresses and strides keeps it at one machine code per dtype.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.kernels.floating_point import MODE_BYTES
from flashbench.kernels.ir import INT, call, const, loop


@intrinsic
def pointer(typingctx: Any, like: Any, address: Any) -> Any:
    """The address as a pointer to elements of `like`'s type."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(like)(like, types.intp), codegen


@intrinsic
def at(typingctx: Any, base: Any, offset: Any) -> Any:
    """base + offset, in elements."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return base(base, types.intp), codegen


@intrinsic
def take_ticket(typingctx: Any, counter: Any) -> Any:
    """The counter's value before adding one to it: each task goes to exactly one thread."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], const(1), "monotonic")

    return types.intp(counter), codegen


@intrinsic
def fetch_add(typingctx: Any, cell: Any, value: Any) -> Any:
    """What is in the cell before value is added to it, after everything this thread has written and before
    what it reads next.

    Whoever draws the last number of several threads sees what all before it wrote.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], args[1], "acq_rel")

    return types.intp(cell, types.intp), codegen


_LINE = 64


def prefetch(builder: ir.IRBuilder, place: ir.Value) -> None:
    """Ask for the cache line of an address, which may be past the end of what is there."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    reading, nearest, data = ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)
    where = builder.bitcast(place, byte)
    call(builder, "llvm.prefetch.p0i8", ir.VoidType(), where, reading, nearest, data)


@intrinsic
def prefetch_rows(typingctx: Any, address: Any, rows: Any, stride: Any, size: Any) -> Any:
    """Ask for `size` bytes of each of some rows, `stride` bytes apart, ahead of their use."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        start, rows, stride, size = args
        whole = builder.add(size, const(_LINE - 1))
        with (
            loop(builder, rows, carry=[]) as (row, _, _),
            loop(builder, whole, step=_LINE, carry=[]) as (offset, _, _),
        ):
            line = builder.add(builder.add(start, builder.mul(row, stride)), offset)
            prefetch(builder, builder.inttoptr(line, ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    n = types.intp
    return types.void(n, n, n, n), codegen


@intrinsic
def publish(typingctx: Any, cell: Any, value: Any) -> Any:
    """Store value where other threads look, after everything this thread has written."""

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


_SPINS = 256  # some microseconds; a neighbour that is later than that has lost its core


@intrinsic
def wait_for(typingctx: Any, cell: Any, value: Any) -> Any:
    """Return once another thread has published at least `value` in the cell.

    Spins briefly, then gives the core away between looks, so that more threads than cores still get on.
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
        seen = builder.load_atomic(args[0], "acquire", 8)
        builder.cbranch(builder.icmp_signed(">=", seen, args[1]), done, early)
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
    """What another thread may just have stored in the cell; a pause, as it will be looked at again."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        seen = builder.load_atomic(args[0], "acquire", 8)
        _spin_hint(builder)
        return seen

    return types.intp(cell), codegen


@intrinsic
def give_way(typingctx: Any) -> Any:
    """Let another thread have the core."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _yield_processor(builder)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def nap(typingctx: Any) -> Any:
    """Sleep for some 50 microseconds; a millisecond on Windows, which has no less."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        name, time = ("Sleep", 1) if sys.platform == "win32" else ("usleep", 50)
        word = ir.IntType(32)
        sleep = cgutils.get_or_insert_function(builder.module, ir.FunctionType(word, [word]), name)
        builder.call(sleep, [ir.Constant(word, time)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_address(typingctx: Any, address: Any, values: Any) -> Any:
    """Call the C function at the address, with a tuple of as many integers or addresses as it takes."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[1], values.count)
        function = ir.FunctionType(ir.VoidType(), [INT] * values.count)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, values.count)), codegen


@intrinsic
def call_in_mode(typingctx: Any, address: Any, value: Any, mode: Any, get_mode: Any, set_mode: Any) -> Any:
    """Call the C function void(intptr_t) at the address in the floating-point mode at another, and return to
    this thread's own; C's fegetenv and fesetenv are given by address.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address, value, mode, get_mode, set_mode = args
        kept = cgutils.alloca_once(builder, ir.ArrayType(INT, MODE_BYTES // 8))
        own = builder.ptrtoint(kept, INT)
        act = ir.FunctionType(ir.VoidType(), [INT]).as_pointer()
        steps = ((get_mode, own), (set_mode, mode), (address, value), (set_mode, own))
        for function, argument in steps:
            builder.call(builder.inttoptr(function, act), [argument])
        return context.get_dummy_value()

    n = types.intp
    return types.void(n, n, n, n, n), codegen


@intrinsic
def number_from(typingctx: Any, address: Any) -> Any:
    """What the C function int(void) at the address returns."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), [])
        found = builder.call(builder.inttoptr(args[0], function.as_pointer()), [])
        return builder.sext(found, INT)

    return types.intp(types.intp), codegen
