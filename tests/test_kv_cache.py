"""KVCache and PagedKVCache: attention reads what was appended, without copies while there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.oracle_engine import OracleEngine
from helpers.support import assert_close
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flashbench.errors import AttentionError
from flashbench.functional import attention
from flashbench.kv_cache import KVCache, PagedKVCache

Cache = KVCache | PagedKVCache
HEADS, HEAD_DIM, HEAD_DIM_V = 2, 3, 1
CACHES = pytest.mark.parametrize("make", [KVCache, PagedKVCache])


def tokens(cache: Cache, sequence: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of one sequence, (num_kv_heads, length, ...), found as in attention: by lengths and table."""
    length = cache.key_lengths[sequence]
    if cache.block_table is None:
        return cache.k[sequence, :, :length], cache.v[sequence, :, :length]
    places = [divmod(position, cache.k.shape[2]) for position in range(length)]
    rows = [(cache.block_table[sequence, page], row) for page, row in places]
    found = []
    for pool in (cache.k, cache.v):
        empty = np.empty((pool.shape[1], 0, pool.shape[3]), pool.dtype)
        found.append(np.concatenate([empty, *(pool[page, :, row : row + 1] for page, row in rows)], axis=1))
    return found[0], found[1]


class CacheMachine(RuleBasedStateMachine):
    """A cache, compared with plain lists of each sequence's tokens."""

    cache: Cache

    def begin(self, cache: Cache, batch: int) -> None:
        self.cache = cache
        self.expected: list[list[float]] = [[] for _ in range(batch)]
        self.next = 0.0

    def new(self, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """New tokens, each with its own number: the numbers, and k and v with them in all columns."""
        numbers = self.next + np.arange(1.0, np.prod(shape) + 1).reshape(shape)
        self.next += numbers.size
        values = numbers[..., None, :, None] + np.arange(HEADS)[:, None, None] / 8
        k, v = (
            np.repeat(sign * values, width, axis=-1).astype("f4")
            for sign, width in ((1, HEAD_DIM), (-1, HEAD_DIM_V))
        )
        return numbers, k, v

    @rule(count=st.integers(0, 5))
    def append(self, count: int) -> None:
        numbers, k, v = self.new(len(self.expected), count)
        self.cache.append(k, v)
        for tokens_of, added in zip(self.expected, numbers.tolist(), strict=True):
            tokens_of += added

    @rule(count=st.integers(0, 9), data=st.data())
    def append_to_one(self, count: int, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(0, len(self.expected) - 1))
        numbers, k, v = self.new(count)
        self.cache.append(k, v, sequence=sequence)
        self.expected[sequence] += numbers.tolist()

    @rule(most=st.integers(0, 12))
    def truncate_all(self, most: int) -> None:
        self.cache.truncate(most)
        self.expected = [tokens_of[:most] for tokens_of in self.expected]

    @rule(data=st.data())
    def truncate_each(self, data: st.DataObject) -> None:
        lengths = [data.draw(st.integers(0, len(tokens_of))) for tokens_of in self.expected]
        self.cache.truncate(lengths)
        self.expected = [tokens_of[:n] for tokens_of, n in zip(self.expected, lengths, strict=True)]

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(0, len(self.expected) - 1))
        self.cache.free(sequence)
        self.expected[sequence] = []

    @invariant()
    def holds_what_was_appended(self) -> None:
        if not hasattr(self, "expected"):
            return
        assert self.cache.key_lengths.tolist() == list(map(len, self.expected))
        assert len(self.cache) == max(map(len, self.expected))
        for sequence, numbers in enumerate(self.expected):
            k, v = tokens(self.cache, sequence)
            assert k.shape == (HEADS, len(numbers), HEAD_DIM)
            assert v.shape == (HEADS, len(numbers), HEAD_DIM_V)
            for head in range(HEADS):
                assert (k[head] == np.array(numbers)[:, None] + head / 8).all()
                assert (v[head] == -np.array(numbers)[:, None] - head / 8).all()


HALVES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@CACHES
@HALVES
def test_a_cache_of_halves_takes_the_dtype_by_any_of_its_names(
    make: Callable[..., Cache], dtype: str
) -> None:
    of_numpy = np.dtype({"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype])
    for word in (dtype, of_numpy, of_numpy.type):
        cache = make(1, 2, 4, dtype=word)
        assert cache.k.dtype == cache.v.dtype == of_numpy
        assert cache.nbytes * 4 == make(1, 2, 4).nbytes


@CACHES
@HALVES
def test_keys_in_float32_are_rounded_once_into_a_cache_of_halves(
    make: Callable[..., Cache], dtype: str
) -> None:
    cache, of_numpy = make(2, 2, 4, dtype=dtype), np.dtype(dtype)
    k, v = np.random.default_rng(0).standard_normal((2, 2, 2, 3, 4)).astype(np.float32)
    cache.append(k, v)
    cache.append(k.astype(of_numpy), v.astype(of_numpy))
    for sequence in range(2):
        for found, given in zip(tokens(cache, sequence), (k, v), strict=True):
            expected = given[sequence].astype(of_numpy).astype(np.float32)
            np.testing.assert_array_equal(found.astype(np.float32), np.concatenate([expected] * 2, axis=1))
    wanted = f"k has dtype float64, the cache has {dtype}: k must be float32 or {dtype}"
    with pytest.raises(AttentionError, match=wanted):
        cache.append(k.astype(np.float64), v)


@CACHES
@HALVES
def test_a_float32_query_goes_with_a_cache_of_halves_through_the_cache_alone(
    make: Callable[..., Cache], dtype: str
) -> None:
    cache = make(2, 2, 8, dtype=dtype)
    rng = np.random.default_rng(0)
    cache.append(*rng.standard_normal((2, 2, 2, 5, 8)).astype(np.float32))
    cache.append(*rng.standard_normal((2, 2, 3, 8)).astype(np.float32), sequence=1)
    q = rng.standard_normal((2, 4, 1, 8)).astype(np.float32)
    with pytest.raises(AttentionError, match=f"k has dtype {dtype}, q has float32"):
        attention(q, cache.k, cache.v, key_lengths=cache.key_lengths)
    o, lse = cache.attention(q, causal=True, return_lse=True)
    assert (o.dtype, lse.dtype) == (np.float32, np.float32)
    direct, direct_lse = attention(
        q.astype(np.dtype(dtype)),
        cache.k,
        cache.v,
        causal=True,
        key_lengths=cache.key_lengths,
        block_table=cache.block_table,
        return_lse=True,
    )
    np.testing.assert_array_equal(o, direct.astype(np.float32))
    np.testing.assert_array_equal(lse, direct_lse)
    own = cache.attention(q.astype(np.dtype(dtype)), causal=True)
    assert own.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(own.astype(np.float32), o)
    with pytest.raises(
        AttentionError, match=f"q has dtype float64, the cache has {dtype}: q must be float32 "
    ):
        cache.attention(q.astype(np.float64))


@CACHES
def test_attention_of_a_wide_cache_is_attention(make: Callable[..., Cache]) -> None:
    cache = make(1, 2, 8)
    k, v = np.random.default_rng(0).standard_normal((2, 1, 2, 5, 8))
    cache.append(k, v)
    q = np.random.default_rng(1).standard_normal((1, 4, 2, 8))
    o = cache.attention(q, causal=True, window=(2, 0))
    np.testing.assert_allclose(o, attention(q, k, v, causal=True, window=(2, 0)), atol=1e-14)
    with pytest.raises(AttentionError, match="q has dtype float32, the cache has float64: they must be the"):
        cache.attention(q.astype(np.float32))
    with pytest.raises(TypeError, match="unexpected keyword argument 'key_lengths'"):
        cache.attention(q, key_lengths=[5])


class KVCacheMachine(CacheMachine):
    @initialize(batch=st.integers(1, 3), capacity=st.integers(1, 8))
    def make(self, batch: int, capacity: int) -> None:
        shape = batch, HEADS, HEAD_DIM
        cache = KVCache(*shape, head_dim_v=HEAD_DIM_V, capacity=capacity, dtype="float32")
        self.begin(cache, batch)

    @precondition(lambda self: hasattr(self, "cache"))
    @invariant()
    def views_are_as_long_as_the_longest(self) -> None:
        assert self.cache.k.shape[2] == self.cache.v.shape[2] == len(self.cache) <= self.cache.capacity
        assert self.cache.block_table is None


class PagedKVCacheMachine(CacheMachine):
    @initialize(batch=st.integers(1, 3), page_size=st.integers(1, 4), num_pages=st.none() | st.integers(1, 5))
    def make(self, batch: int, page_size: int, num_pages: int | None) -> None:
        shape = batch, HEADS, HEAD_DIM
        options: dict[str, Any] = {"page_size": page_size, "num_pages": num_pages, "dtype": "float32"}
        self.begin(PagedKVCache(*shape, head_dim_v=HEAD_DIM_V, **options), batch)

    @precondition(lambda self: hasattr(self, "cache"))
    @invariant()
    def every_page_is_one_sequences_or_free(self) -> None:
        cache = self.cache
        used = [-(-length // cache.page_size) for length in cache.key_lengths]
        table = cache.block_table
        assert table.shape == (len(self.expected), max(1, *used))
        pages = [page for row, count in zip(table, used, strict=True) for page in row[:count]]
        assert len(set(pages)) == len(pages) == cache.num_pages - cache.free_pages
        assert all(0 <= page < cache.num_pages for page in pages)
        assert not any(row[count:].any() for row, count in zip(table, used, strict=True))


TestKVCache = KVCacheMachine.TestCase
TestPagedKVCache = PagedKVCacheMachine.TestCase


def test_below_capacity_nothing_is_copied_and_then_all_of_it_once() -> None:
    cache = KVCache(1, 1, 4, capacity=4)
    x = np.ones((1, 1, 2, 4))
    cache.append(x, x)
    first = cache.k
    cache.append(x, x)
    assert np.shares_memory(cache.k, first)
    assert cache.capacity == 4
    cache.append(x, x)
    assert not np.shares_memory(cache.k, first)
    assert cache.capacity == 8


def test_the_pool_of_pages_is_copied_only_when_none_is_free() -> None:
    cache = PagedKVCache(2, 1, 4, page_size=2)
    x = np.ones((2, 1, 2, 4))
    cache.append(x, x)
    first = cache.k
    assert (cache.num_pages, cache.free_pages) == (2, 0)
    cache.free(0)
    cache.append(x[0], x[0], sequence=1)  # into the page that the other sequence freed
    assert cache.k is first
    cache.append(x[0], x[0], sequence=1)
    assert cache.k is not first
    assert cache.num_pages == 4


@CACHES
def test_one_token_at_a_time_copies_a_bounded_number_of_times_its_size(
    make: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(2, 1, 4, **({"capacity": 1} if make is KVCache else {"page_size": 1}))
    allocated: list[int] = []
    zeros = np.zeros

    def counting(shape: Any, *rest: Any) -> Any:
        allocated.append(int(np.prod(shape)))
        return zeros(shape, *rest)

    monkeypatch.setattr(np, "zeros", counting)
    x = np.ones((2, 1, 1, 4))
    for _ in range(100):
        cache.append(x, x)
    assert 0 < sum(allocated) <= 2 * cache.nbytes / cache.k.itemsize  # 1 + 2 + 4 + ... + n < 2 n


@pytest.mark.parametrize(
    ("make", "engine"), [(KVCache, "oracle"), (KVCache, "flash"), (PagedKVCache, "oracle")]
)
def test_decoding_is_attention_over_what_was_appended(
    make: Callable[..., Cache], engine: str, oracle: OracleEngine
) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    prompts = [rng.standard_normal((2, 2, length, 4)) for length in (5, 9)]
    cache = make(2, 2, 4)
    for sequence, (k, v) in enumerate(prompts):
        cache.append(torch.from_numpy(k), torch.from_numpy(v), sequence=sequence)
    for _ in range(3):
        k, v = rng.standard_normal((2, 2, 2, 1, 4))
        cache.append(k, v)
        prompts = [
            np.concatenate([prompt, np.stack([k[i], v[i]])], axis=2) for i, prompt in enumerate(prompts)
        ]
        q = rng.standard_normal((2, 4, 1, 4))
        o = attention(
            q,
            cache.k,
            cache.v,
            key_lengths=cache.key_lengths,
            block_table=cache.block_table,
            causal=True,
            engine=engine,
        )
        for i, prompt in enumerate(prompts):
            rows = (torch.from_numpy(x) for x in (q[i], *prompt))
            expected = torch.nn.functional.scaled_dot_product_attention(*rows, enable_gqa=True)
            assert_close(o[i], expected.numpy(), 1e-12)


@CACHES
def test_an_append_that_fails_changes_nothing(make: Callable[..., Cache]) -> None:
    cache = make(2, 1, 4)
    x = np.ones((2, 1, 3, 4))
    cache.append(x, x)
    for k, v in ((x, x[:, :, :2]), (x, x[..., :3]), (x, x.astype("f4")), (x, None)):
        with pytest.raises(AttentionError):
            cache.append(2 * k, v)
    assert cache.key_lengths.tolist() == [3, 3]
    assert (tokens(cache, 1)[0] == 1).all()


@CACHES
def test_lengths_and_tables_are_the_callers_to_keep(make: Callable[..., Cache]) -> None:
    cache = make(2, 1, 4)
    x = np.ones((2, 1, 3, 4))
    cache.append(x, x)
    lengths, table = cache.key_lengths, cache.block_table
    lengths += 1
    if table is not None:
        table += 1
    cache.append(x, x)
    assert cache.key_lengths.tolist() == [6, 6]
    assert (tokens(cache, 1)[0] == 1).all()


@CACHES
def test_memory_is_that_of_all_the_room(make: Callable[..., Cache]) -> None:
    room = {"capacity": 10} if make is KVCache else {"page_size": 5, "num_pages": 4}
    assert make(2, 3, 4, head_dim_v=6, dtype=np.float32, **room).nbytes == 2 * 3 * 10 * (4 + 6) * 4


BAD_SIZES = {
    "batch": ({"batch": 0}, "batch must be at least 1, not 0"),
    "no batch": ({"batch": None}, "batch must be a whole number, not None"),
    "heads": ({"num_kv_heads": 1.5}, "num_kv_heads must be a whole number or None, not 1.5"),
    "wide": ({"head_dim": 257}, "head_dim must be at most 256, not 257"),
    "wide values": ({"head_dim_v": 300}, "head_dim_v must be at most 256, not 300"),
    "dtype": ({"dtype": "int8"}, "dtype must be float64, float32, bfloat16 or float16, not 'int8'"),
    "no dtype": ({"dtype": None}, "dtype must be float64, float32, bfloat16 or float16, not None"),
    "unknown dtype": (
        {"dtype": "half?"},
        "dtype must be float64, float32, bfloat16 or float16, not 'half?'",
    ),
}


@CACHES
@pytest.mark.parametrize(("changes", "message"), BAD_SIZES.values(), ids=BAD_SIZES)
def test_a_wrong_size_is_named(make: Callable[..., Cache], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttentionError) as error:
        make(**{"batch": 1, "num_kv_heads": 1, "head_dim": 4, **changes})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "name"), [(KVCache, "capacity"), (PagedKVCache, "page_size"), (PagedKVCache, "num_pages")]
)
def test_a_cache_has_room_for_something(make: Callable[..., Cache], name: str) -> None:
    with pytest.raises(AttentionError, match=f"{name} must be at least 1, not 0"):
        make(1, 1, 4, **{name: 0})


X = np.zeros((2, 3, 5, 4))
BAD_TOKENS: dict[str, tuple[dict[str, Any], str]] = {
    "other dtype": (
        {"k": X.astype("f4")},
        "k has dtype float32, the cache has float64: they must be the same",
    ),
    "other heads": ({"v": X[:, :2]}, "v must have shape (2, 3, new, 4), not (2, 2, 5, 4)"),
    "without batch": ({"k": X[0]}, "k must have shape (2, 3, new, 4), not (3, 5, 4)"),
    "with batch": ({"sequence": 1}, "k must have shape (3, new, 4), not (2, 3, 5, 4)"),
    "other head_dim": ({"k": X[..., :3]}, "k must have shape (2, 3, new, 4), not (2, 3, 5, 3)"),
    "other counts": ({"v": X[:, :, :1]}, "k and v must be of as many new tokens, not 5 and 1"),
    "a list": ({"k": [0.0]}, "k must be a NumPy array or another with __dlpack__, not list"),
    "no such sequence": ({"sequence": 2}, "sequence must be from 0 to 1, not 2"),
    "sequence below nought": ({"sequence": -1}, "sequence must be at least 0, not -1"),
    "sequence as a flag": ({"sequence": True}, "sequence must be a whole number or None, not True"),
}


@CACHES
@pytest.mark.parametrize(("changes", "message"), BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_wrong_token_is_named(make: Callable[..., Cache], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttentionError) as error:
        make(2, 3, 4).append(**{"k": X, "v": X, **changes})
    assert str(error.value) == message


BAD_LENGTHS: dict[str, tuple[Any, str]] = {
    "below nothing": (-1, "lengths must be at least 0, not -1"),
    "a flag": (True, "lengths must be a whole number or None, not True"),
    "none": (None, "lengths must be a NumPy array or another with __dlpack__, not NoneType"),
    "other batch": ([1], "lengths must be one number or have shape (2,), not (1,)"),
    "longer": ([5, 6], "lengths must be from 0 to 5, which sequence 1 has, not 6"),
    "one below nothing": (np.array([-1, 5]), "lengths must be from 0 to 5, which sequence 0 has, not -1"),
    "halves": ([0.5, 1], "lengths must hold whole numbers, not float64"),
}


@CACHES
@pytest.mark.parametrize(("lengths", "message"), BAD_LENGTHS.values(), ids=BAD_LENGTHS)
def test_a_wrong_length_is_named(make: Callable[..., Cache], lengths: Any, message: str) -> None:
    cache = make(2, 3, 4)
    cache.append(X, X)
    with pytest.raises(AttentionError) as error:
        cache.truncate(lengths)
    assert str(error.value) == message
    assert cache.key_lengths.tolist() == [5, 5]
    with pytest.raises(AttentionError, match="sequence must be from 0 to 1, not None"):
        cache.free(None)
