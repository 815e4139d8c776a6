"""LLVM IR building blocks for the intrinsics: vectors, loops, functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

from flashbench.codegen.elements import HalfType, narrow, widen
from flashbench.codegen.isa import ISA

INT = ir.IntType(64)
BOOL = ir.IntType(1)
VOID = ir.VoidType()


def size_of(element: ir.Type) -> int:
    """Bytes of a float or double."""
    return 4 if isinstance(element, ir.FloatType) else 8


def integer_like(vector: ir.VectorType) -> ir.VectorType:
    """The vector type of integers with the same lanes and element size."""
    return ir.VectorType(ir.IntType(8 * size_of(vector.element)), vector.count)


def full_vector(element: ir.Type) -> ir.VectorType:
    """The widest vector type of the target."""
    return ir.VectorType(element, ISA.lanes(size_of(element)))


def const(n: int) -> ir.Constant:
    return ir.Constant(INT, n)


def round_down(b: ir.IRBuilder, size: ir.Value, unit: int) -> ir.Value:
    """size rounded down to a multiple of `unit`."""
    return b.mul(b.sdiv(size, const(unit)), const(unit))


def round_up(b: ir.IRBuilder, size: ir.Value, unit: int) -> ir.Value:
    """size rounded up to a multiple of `unit`."""
    return round_down(b, b.add(size, const(unit - 1)), unit)


def larger(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """x where x > y, else y: of vectors of floats. So a NaN in x gives y."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def smaller(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The smaller of two integers."""
    return b.select(b.icmp_signed("<", x, y), x, y)


def constant(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def splat(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    """A vector with `scalar` in every lane."""
    vector = ir.VectorType(scalar.type, count)
    undef = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undef, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, undef, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    )


def lane_numbers(count: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(INT, count), list(range(count)))


_SHORT = ir.IntType(16)


def load(builder: ir.IRBuilder, pointer: ir.Value, offset: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Load a vector from pointer[offset]. It need not be aligned to the vector's size.

    Of 16-bit floats: their float32 numbers.
    """
    half, place = pointer.type.pointee, builder.gep(pointer, [offset])
    if isinstance(half, HalfType):
        stored = ir.VectorType(_SHORT, vector.count)
        return widen(builder, builder.load(builder.bitcast(place, stored.as_pointer()), align=2), half)
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=size_of(vector.element))


def store(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, offset: ir.Value) -> None:
    """Store a vector to pointer[offset], rounded if the pointer is to 16-bit floats."""
    half, place = pointer.type.pointee, builder.gep(pointer, [offset])
    if isinstance(half, HalfType):
        stored = narrow(builder, value, half)
        builder.store(stored, builder.bitcast(place, stored.type.as_pointer()), align=2)
    else:
        builder.store(
            value, builder.bitcast(place, value.type.as_pointer()), align=size_of(value.type.element)
        )


def load_one(builder: ir.IRBuilder, pointer: ir.Value, offset: ir.Value) -> ir.Value:
    """The number pointer[offset]; of a 16-bit float, its float32 number."""
    half, place = pointer.type.pointee, builder.gep(pointer, [offset])
    if isinstance(half, HalfType):
        return widen(builder, builder.load(builder.bitcast(place, _SHORT.as_pointer())), half)
    return builder.load(place)


def store_one(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, offset: ir.Value) -> None:
    """pointer[offset] = value, rounded if the pointer is to 16-bit floats."""
    half, place = pointer.type.pointee, builder.gep(pointer, [offset])
    if isinstance(half, HalfType):
        builder.store(narrow(builder, value, half), builder.bitcast(place, _SHORT.as_pointer()))
    else:
        builder.store(value, place)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Call an LLVM intrinsic. `name` includes the overload, as llvmlite cannot name overloads for vectors."""
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args)


def signature_name(vector: ir.VectorType, *pointers: ir.Type) -> str:
    """A suffix for the name of a function of vectors that reads and writes elements of these types."""
    halves = [p.name if isinstance(p, HalfType) else "" for p in pointers]
    return ".".join([overload(vector), *halves]) if any(halves) else overload(vector)


def overload(vector: ir.Type) -> str:
    """The type's suffix in an intrinsic's name: v16f32 for a vector, f32 for a scalar."""
    if not isinstance(vector, ir.VectorType):
        return f"f{8 * size_of(vector)}"
    return f"v{vector.count}f{8 * size_of(vector.element)}"


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c, with one rounding if the CPU has a fused multiply-add, else with two.

    On a CPU without it, llvm.fma would be a library call.
    """
    if not ISA.has_fma:
        return builder.fadd(builder.fmul(a, b), c)
    return call(builder, f"llvm.fma.{overload(a.type)}", a.type, a, b, c)


@contextmanager
def loop(
    builder: ir.IRBuilder,
    stop: ir.Value,
    *,
    start: ir.Value | None = None,
    step: int = 1,
    carry: list[ir.Value],
) -> Iterator[tuple[ir.Value, list[ir.Value], list[ir.Value]]]:
    """for index in range(start, stop, step), with the values `carry` in registers across iterations.

    Yields (index, values of this iteration, an empty list). Fill the list with the values of the next
    iteration. After the loop it holds the final values. Only whole steps run: index + step <= stop.
    """
    first = const(0) if start is None else start
    before = builder.block
    head = builder.append_basic_block("loop.head")
    body = builder.append_basic_block("loop.body")
    after = builder.append_basic_block("loop.end")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INT)
    index.add_incoming(first, before)
    values = [builder.phi(value.type) for value in carry]
    for phi, value in zip(values, carry, strict=True):
        phi.add_incoming(value, before)
    fits = builder.icmp_signed("<=", builder.add(index, const(step)), stop)
    builder.cbranch(fits, body, after)
    builder.position_at_end(body)
    following: list[ir.Value] = []
    yield index, values, following
    index.add_incoming(builder.add(index, const(step)), builder.block)
    for phi, value in zip(values, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    following[:] = values


def if_fits(
    builder: ir.IRBuilder, done: ir.Value, width: int, stop: ir.Value, body: Callable[[], None]
) -> ir.Value:
    """if done + width <= stop: body() and done += width. Returns the new `done`."""
    before = builder.block
    further = builder.add(done, const(width))
    with builder.if_then(builder.icmp_signed("<=", further, stop)):
        body()
        inside = builder.block
    moved = builder.phi(INT)
    moved.add_incoming(done, before)
    moved.add_incoming(further, inside)
    return moved


def function(
    builder: ir.IRBuilder,
    name: str,
    arguments: list[ir.Type],
    body: Callable[..., None],
    *,
    result: ir.Type = VOID,
) -> ir.Function:
    """The private function `name` of the LLVM module. At first use, body(builder, *arguments) writes it."""
    module = builder.module
    if name in module.globals:
        return module.globals[name]
    made = ir.Function(module, ir.FunctionType(result, arguments), name)
    made.linkage = "internal"
    made.attributes.add("noinline")
    made.attributes.add("nounwind")
    inner = ir.IRBuilder(made.append_basic_block("entry"))
    body(inner, *made.args)
    if not inner.block.is_terminated:
        inner.ret_void()
    return made


def _reduce(
    builder: ir.IRBuilder, vector: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """Combine all lanes into one value: low half with high half, until one lane is left."""
    count = vector.type.count
    while count > 1:
        count //= 2
        indices = ir.VectorType(ir.IntType(32), count)
        low = builder.shuffle_vector(vector, vector, ir.Constant(indices, list(range(count))))
        high = builder.shuffle_vector(vector, vector, ir.Constant(indices, list(range(count, 2 * count))))
        vector = combine(low, high)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def sum_of_lanes(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    return _reduce(builder, vector, builder.fadd)


def max_of_lanes(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    return _reduce(builder, vector, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
