"""Products of pairs of bfloat16: each step against NumPy in float64, and attention that uses them."""

import numpy as np
import pytest
from helpers.support import assert_close
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.isa import HAS_BFLOAT16, ISA
from flashbench.codegen.pointers import address_in, pointer
from flashbench.dtypes import DTYPES
from flashbench.engines import Settings
from flashbench.engines.flash.engine import FlashEngine
from flashbench.extras import NO_EXTRAS, make_extras
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.dot_bf16 import DOT_BF16, EMULATED_DOT_BF16
from flashbench.kernels.products.pairs import halves
from flashbench.kernels.products.paths import PATHS, path_of
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference

FLASH = FlashEngine()
VECTOR = ISA.lanes(4)
BFLOAT16 = DTYPES["bfloat16"]
NAN = 0x7FC1
PRODUCTS = pytest.mark.parametrize(
    "product",
    [
        EMULATED_DOT_BF16,
        pytest.param(
            DOT_BF16, marks=pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no AVX512-BF16")
        ),
    ],
    ids=lambda product: product.name,
)


def padded(size, unit):
    return -(-size // unit) * unit


class Tile:
    """Rows of bfloat16 inside memory of NaN, with any stride."""

    def __init__(self, rng, rows, columns, more):
        row = columns + more
        self.memory = np.full((rows - 1) * row + columns + more, NAN, np.uint16)
        self.rows = np.lib.stride_tricks.as_strided(self.memory[more:], (rows, columns), (2 * row, 2))
        self.rows[:] = BFLOAT16.make(rng.standard_normal((rows, columns)))
        self.place = self.rows.ctypes.data, row

    @property
    def numbers(self):
        return BFLOAT16.view(self.rows).astype(float)


def scratch(*shape):
    """Float32 at the start of a cache line, full of NaN as scratch may be."""
    memory = np.full(int(np.prod(shape)) + 16, np.nan, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + int(np.prod(shape))].reshape(shape)


def room_for(rows, columns):
    return scratch(padded(rows, 32), padded(columns, 32))


def rounded(p):
    return BFLOAT16.view(BFLOAT16.make(p)).astype(float)


def compiled_steps(product):
    """The steps of a product as functions of addresses: (scores, add_to_queries, add_to_keys)."""
    if product not in _STEPS:
        _STEPS[product] = _compile(product)
    return _STEPS[product]


_STEPS = {}


def _compile(product):
    @njit
    def scores(zero, q, q_row, k, k_row, sizes, packed, k_room, s):
        queries, keys, depth, lanes, split = sizes
        product.pack(
            Matrix(halves(pointer(zero, q)), q_row), queries, depth, pointer(zero, packed), lanes, zero
        )
        x = product.keys(Matrix(halves(pointer(zero, k)), k_row), keys, depth, pointer(zero, k_room))
        # In two pieces, as kernels may call it.
        product.scores(pointer(zero, s), x, pointer(zero, packed), lanes, split, depth)
        rest = Matrix(halves(pointer(zero, address_in(x.at) + 2 * split * x.row)), x.row)
        s_rest = pointer(zero, s + 4 * split * lanes)
        product.scores(s_rest, rest, pointer(zero, packed), lanes, keys - split, depth)
        return address_in(x.at)

    @njit
    def add_to_queries(zero, p, v, v_row, sizes, room, sums, turns, add):
        queries, keys, columns, lanes = sizes
        x = Matrix(halves(pointer(zero, v)), v_row)
        rows = pointer(zero, room)
        if turns:
            in_room = product.keys(x, keys, columns, pointer(zero, turns))
            x = product.turned(in_room, keys, columns, rows)
        else:
            x = product.values(x, keys, columns, rows)
        w = product.weights(pointer(zero, p), lanes, keys)
        target = product.sums(pointer(zero, sums), lanes, columns)
        product.add_to_queries(w, lanes, x, target, queries, columns, keys, add)
        return target.query

    @njit
    def add_to_keys(zero, p, x, x_row, sizes, rooms, sums, sums_row, add):
        queries, keys, columns, lanes = sizes
        x = Matrix(halves(pointer(zero, x)), x_row)
        x = product.queries(x, queries, columns, pointer(zero, rooms[0]))
        w = product.key_weights(pointer(zero, p), lanes, keys, pointer(zero, rooms[1]))
        target = Matrix(pointer(zero, sums), sums_row)
        product.add_to_keys(w, lanes, x, target, keys, columns, queries, add)

    return scores, add_to_queries, add_to_keys


ZERO = np.float32(0)
SIZES = {
    "queries": st.integers(1, 50),
    "keys": st.integers(1, 70),
    "columns": st.integers(1, 140),
    "more": st.integers(0, 5),
    "seed": st.integers(0, 100),
}


@PRODUCTS
@given(**SIZES, split=st.integers(0, 70))
def test_scores(product, queries, keys, columns, more, seed, split):
    rng = np.random.default_rng(seed)
    q, k = Tile(rng, queries, columns, more), Tile(rng, keys, columns, more)
    lanes = padded(queries, VECTOR)
    packed, k_room = scratch(padded(columns, 32), lanes), room_for(keys, columns)
    s = scratch(padded(keys, 32), lanes)
    run = compiled_steps(product)[0]
    sizes = queries, keys, columns, lanes, min(split, keys)
    addresses = packed.ctypes.data, k_room.ctypes.data, s.ctypes.data
    at = run(ZERO, *q.place, *k.place, sizes, *addresses)
    assert (at == k.place[0]) == (columns % 2 == 0)  # read in place, whatever its alignment
    expected = np.zeros((keys, lanes))
    expected[:, :queries] = k.numbers @ q.numbers.T
    assert_close(s[:keys], expected, 2e-6 * columns)
    assert np.isnan(s[keys:]).all()


@PRODUCTS
@pytest.mark.parametrize("turned", [False, True])
@given(**SIZES, add=st.booleans())
def test_add_to_queries(product, turned, queries, keys, columns, more, seed, add):
    rng = np.random.default_rng(seed)
    v = Tile(rng, keys, columns, more)
    lanes = padded(queries, VECTOR)
    p = scratch(padded(keys, 32), lanes)
    p[:keys] = rng.standard_normal((keys, lanes))
    p[:keys, queries:] = np.nan  # lanes without a query
    weights = rounded(p[:keys, :queries])
    sums = scratch(queries + 1, columns)
    if add:
        sums[:queries] = rng.standard_normal((queries, columns))
    expected = (sums[:queries] if add else 0) + weights.T @ v.numbers
    room, turns = room_for(keys, columns), room_for(keys, columns)
    sizes = queries, keys, columns, lanes
    run = compiled_steps(product)[1]
    turns_at = turns.ctypes.data if turned else 0
    assert (
        run(ZERO, p.ctypes.data, *v.place, sizes, room.ctypes.data, sums.ctypes.data, turns_at, add)
        == columns
    )
    assert_close(sums[:queries], expected, 2e-6 * (keys + 1))
    assert np.isnan(sums[queries:]).all()


@PRODUCTS
@given(**SIZES, add=st.booleans(), in_place=st.booleans())
def test_add_to_keys(product, queries, keys, columns, more, seed, add, in_place):
    rng = np.random.default_rng(seed)
    do = Tile(rng, queries, columns, more)
    lanes = padded(queries, VECTOR)
    p = scratch(padded(keys, 32), lanes)
    p[:keys] = rng.standard_normal((keys, lanes))
    p[:keys, queries:] = np.nan
    weights = rounded(p[:keys, :queries])
    frame = scratch(keys + 1, columns + more)
    if add:
        frame[:keys, :columns] = rng.standard_normal((keys, columns))
    expected = (frame[:keys, :columns] if add else 0) + weights @ do.numbers
    room, other = room_for(lanes, columns), scratch(padded(keys, 32), lanes)
    rooms = room.ctypes.data, (p if in_place else other).ctypes.data
    sizes = queries, keys, columns, lanes
    run = compiled_steps(product)[2]
    run(ZERO, p.ctypes.data, *do.place, sizes, rooms, frame.ctypes.data, columns + more, add)
    assert_close(frame[:keys, :columns], expected, 2e-6 * (queries + 1))
    assert np.isnan(frame[keys:]).all()
    assert np.isnan(frame[:, columns:]).all()


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no AVX512-BF16")
def test_the_instruction_takes_denormals_for_zero_and_the_emulation_does_not():
    tile = Tile(np.random.default_rng(0), 1, 2, 0)
    tile.rows[:] = 1, 0  # the smallest denormal, 2**-133
    large = Tile(np.random.default_rng(0), 1, 2, 0)
    large.rows[:] = BFLOAT16.make(np.array([2.0**100, 0]))
    results = []
    for product in (DOT_BF16, EMULATED_DOT_BF16):
        packed, room, s = scratch(32, VECTOR), room_for(1, 2), scratch(32, VECTOR)
        addresses = packed.ctypes.data, room.ctypes.data, s.ctypes.data
        compiled_steps(product)[0](ZERO, *tile.place, *large.place, (1, 1, 2, VECTOR, 0), *addresses)
        results.append(s[0, 0])
    assert results == [0.0, 2.0**-33]


# Attention.


def naive(problem, do, q, k, v):
    """o, dq, dk and dv by the formulas, every intermediate result rounded to bfloat16, sums in float32."""

    def r(x):
        return BFLOAT16.view(BFLOAT16.make(x))

    group = problem.num_heads // problem.num_kv_heads
    q, do = BFLOAT16.view(q), BFLOAT16.view(do)
    k, v = (np.repeat(BFLOAT16.view(x), group, axis=1) for x in (k, v))
    s = r(r(q @ k.swapaxes(2, 3)) * np.float32(problem.scale))
    if problem.causal:
        i, j = np.ogrid[: problem.seqlen_q, : problem.seqlen_k]
        s = np.where(j <= i + problem.diagonal_offset, s, -np.inf)
    top = s.max(axis=3, keepdims=True)
    p = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = p.sum(axis=3, keepdims=True)
    p = r(np.divide(p, total, out=np.zeros_like(p), where=total > 0))
    o = r(p @ v)
    dp = r(do @ v.swapaxes(2, 3))
    ds = r(p * r(dp - r((do * o).sum(axis=3, keepdims=True))) * np.float32(problem.scale))

    def over_group(x):
        return r(r(x).reshape(x.shape[0], -1, group, *x.shape[2:]).sum(axis=2))

    return o, r(ds @ k), over_group(ds.swapaxes(2, 3) @ q), over_group(p.swapaxes(2, 3) @ do)


def results(problem, settings, inputs, extras=NO_EXTRAS):
    """o, lse, dq, dk, dv as float32."""
    q, k, v, do = inputs
    forward = FLASH.forward(problem, settings, q, k, v, extras=extras)
    gradients = FLASH.backward(problem, settings, do, q, k, v, forward, extras=extras)
    return BFLOAT16.view(forward.o), forward.lse, *(BFLOAT16.view(x) for x in gradients)


def inputs_of(problem, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    shapes = problem.q_shape, problem.k_shape, (*problem.k_shape[:3], problem.head_dim_v)
    do = (*problem.q_shape[:3], problem.head_dim_v)
    return [BFLOAT16.make(size * rng.standard_normal(shape)) for shape in (*shapes, do)]


def assert_as_exact_as_flash_attention_asks(problem, settings, inputs):
    """o at most twice as far from the oracle as a naive computation, gradients at most three times."""
    q, k, v, do = inputs
    o, lse = attention_reference(problem, q, k, v)
    expected = [o, *attention_backward_reference(problem, do, q, k, v)]
    actual_o, actual_lse, *gradients = results(problem, settings, inputs)
    assert_close(actual_lse, lse, 1e-5 * max(1.0, np.abs(lse[np.isfinite(lse)]).max(initial=0)))
    of_naive = naive(problem, do, q, k, v)
    for factor, actual, right, other in zip(
        (2, 3, 3, 3), [actual_o, *gradients], expected, of_naive, strict=True
    ):
        assert_close(actual, right, factor * np.abs(other - right).max() + 1e-5)


@PRODUCTS
@given(
    heads=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    seqlen_q=st.integers(1, 80),
    seqlen_k=st.integers(1, 80),
    head_dim=st.integers(1, 72),
    head_dim_v=st.integers(1, 72),
    causal=st.booleans(),
    block_q=st.integers(1, 80),
    block_k=st.integers(1, 80),
    size=st.sampled_from([1.0, 5.0]),
    seed=st.integers(0, 100),
)
def test_any_shape_is_exact(
    product, heads, seqlen_q, seqlen_k, head_dim, head_dim_v, causal, block_q, block_k, size, seed
):
    num_heads, num_kv_heads = heads
    problem = AttentionProblem.of(
        seqlen_q,
        seqlen_k=seqlen_k,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        dtype="bfloat16",
        causal=causal,
    )
    settings = Settings(block_q, block_k, 1, path=product.name)
    assert_as_exact_as_flash_attention_asks(problem, settings, inputs_of(problem, seed, size))


FEATURES = {
    "causal": {"causal": True},
    "window": {"window": (9, 12)},
    "bool-mask": {"mask": "bool", "mask_axes": "hqk"},
    "float-mask": {"mask": "float", "mask_axes": "hqk"},
    "block-mask": {"mask": "block", "mask_block_q": 19, "mask_block_k": 16},
    "key-lengths": {"key_lengths": (53, 30)},
}


@PRODUCTS
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["q", "k", "v", "do"])
@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_not_finite_reaches_just_what_sees_it(product, feature, name, value):
    """Odd numbers of queries, keys and columns: each has a neighbour in its pair that must stay zero."""
    problem = AttentionProblem.of(
        37, seqlen_k=53, batch=2, num_heads=2, head_dim=17, dtype="bfloat16", **FEATURES[feature]
    )
    extras = make_extras(problem)
    if problem.mask in ("bool", "float"):  # keys that no query sees, queries that see no key
        mask = extras.mask.copy()
        for hidden in ((..., slice(20, 30)), (..., slice(28, 33), slice(None))):
            mask[hidden] = False if problem.mask == "bool" else -np.inf
        extras = extras._replace(mask=mask)
    for row in (5, 25, 36):
        inputs = dict(zip(["q", "k", "v", "do"], inputs_of(problem), strict=True))
        inputs[name][1, :, row, 3] = BFLOAT16.make(np.array([value]))
        q, k, v, do = inputs.values()
        expected = (
            attention_reference(problem, q, k, v, extras)[0],
            *attention_backward_reference(problem, do, q, k, v, extras),
        )
        for settings in (Settings(path=product.name), Settings(16, 16, path=product.name)):
            o, _, *gradients = results(problem, settings, list(inputs.values()), extras)
            for actual, right in zip([o, *gradients], expected, strict=True):
                finite = np.isfinite(right)
                # Where an infinity is visible, a sum may be infinite or NaN, as it is added up.
                np.testing.assert_array_equal(np.isfinite(actual), finite)
                np.testing.assert_allclose(actual[finite], right[finite], rtol=0.02, atol=0.05)


@PRODUCTS
@pytest.mark.parametrize("heads", [(1, 1), (3, 1)])
def test_results_are_the_same_bits_for_any_number_of_threads(product, heads):
    num_heads, num_kv_heads = heads
    problem = AttentionProblem.of(
        217, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=40, dtype="bfloat16", causal=True
    )
    inputs = inputs_of(problem)
    expected = results(problem, Settings(16, 48, 1, path=product.name), inputs)
    for threads in (2, 3, 5):
        actual = results(problem, Settings(16, 48, threads, path=product.name), inputs)
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@PRODUCTS
@pytest.mark.parametrize("head_dim", [24, 25])
def test_rows_at_any_stride_and_address_give_the_same_bits(product, head_dim):
    problem = AttentionProblem.of(33, seqlen_k=45, num_heads=2, head_dim=head_dim, dtype="bfloat16")
    inputs = inputs_of(problem)
    expected = results(problem, Settings(path=product.name), inputs)
    for row, start in ((head_dim + 1, 1), (head_dim + 8, 2), (2 * head_dim, 3)):
        strided = []
        for x in inputs:
            memory = np.full(x.size // head_dim * row + start, NAN, np.uint16)
            wide = memory[start:].reshape(*x.shape[:3], row)
            wide[..., :head_dim] = x
            strided.append(wide[..., :head_dim])
        for one, other in zip(results(problem, Settings(path=product.name), strided), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_path_is_chosen_where_the_cpu_has_the_instruction():
    # Only a faster path may come before it.
    names = list(PATHS)
    assert names.index("dot_bf16") < names.index("convert") < names.index("dot_bf16-emulated")
    chosen = names.index(path_of("bfloat16").product.name)
    assert chosen <= names.index("dot_bf16" if HAS_BFLOAT16 else "convert")
