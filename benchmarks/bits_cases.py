"""What bits.py hashes beside the cases of `flashbench verify`: larger problems, and public functions.

Names are stable: hashes are compared by them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from flashbench import (
    KVCache,
    PagedKVCache,
    attention,
    attention_backward,
    attention_varlen,
    attention_varlen_backward,
    merge_attention,
)

DTYPES = ("float32", "float64")
_SEED = 1
_ENGINES = ("flash", "standard")


def by_rows(inputs: Any) -> Any:
    """The same numbers in views of (batch, seqlen, heads, head_dim) arrays, as models have them."""
    return type(inputs)(*(x.swapaxes(1, 2).copy().swapaxes(1, 2) for x in inputs))


def padded_rows(inputs: Any) -> Any:
    """Rows 4096 bytes apart: the worst for a cache."""

    def padded(x: Any) -> Any:
        wide = np.zeros((*x.shape[:3], 4096 // x.itemsize), x.dtype)
        wide[..., : x.shape[3]] = x
        return wide[..., : x.shape[3]]

    return type(inputs)(*map(padded, inputs))


def put(value: float, name: str) -> Callable[[Any], Any]:
    """Puts the value into one input, and lays all of them out by rows."""

    def change(inputs: Any) -> Any:
        getattr(inputs, name)[0, 1, 300, 7] = value
        return by_rows(inputs)

    return change


# By name; None: contiguous (batch, heads, seqlen, head_dim).
LAYOUTS: Mapping[str, Callable[[Any], Any] | None] = {"heads": None, "rows": by_rows}
VALUES = {"nan": np.nan, "inf": np.inf}
MASKINGS: Mapping[str, Mapping[str, Any]] = {"full": {}, "causal": {"causal": True}}


# seqlen_q and further fields.
SHAPES: tuple[tuple[str, int, Mapping[str, Any]], ...] = (
    *(
        (
            f"larger-{seqlen}-heads-{heads}-{kv_heads}",
            seqlen,
            {"batch": 2, "num_heads": heads, "num_kv_heads": kv_heads},
        )
        for seqlen in (64, 129)
        for heads, kv_heads in ((4, 4), (4, 2), (4, 1))
    ),
    ("larger-512-heads-8-8", 512, {"num_heads": 8}),
    ("larger-512-heads-8-2", 512, {"num_heads": 8, "num_kv_heads": 2}),
    ("larger-1024-heads-4-4", 1024, {"num_heads": 4}),
    ("larger-1024-heads-4-1", 1024, {"num_heads": 4, "num_kv_heads": 1}),
    ("larger-1024-d128", 1024, {"num_heads": 2, "head_dim": 128}),
    ("larger-700-d256-v40", 700, {"num_heads": 2, "head_dim": 256, "head_dim_v": 40}),
    ("larger-2048-heads-2-2", 2048, {"num_heads": 2}),
    ("larger-513x1030", 513, {"seqlen_k": 1030, "num_heads": 3, "head_dim": 80}),
    ("larger-1030x513", 1030, {"seqlen_k": 513, "num_heads": 3, "head_dim": 80}),
    ("larger-513x1030-top-left", 513, {"seqlen_k": 1030, "num_heads": 3, "causal_alignment": "top-left"}),
)
BASE: Mapping[str, Any] = {"seqlen_k": 600, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "window": {"window": (150, 40)},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    **{f"bool-{axes}": {"mask": "bool", "mask_axes": axes} for axes in ("k", "hqk")},
    **{f"float-{axes}": {"mask": "float", "mask_axes": axes} for axes in ("k", "q", "qk", "hqk")},
    "float-bk": {"mask": "float", "mask_axes": "bk", "batch": 2},
    "block-64x64": {"mask": "block", "mask_axes": "hqk"},
    "block-128x32": {"mask": "block", "mask_axes": "qk", "mask_block_q": 128, "mask_block_k": 32},
    "dropout": {"dropout": 0.2, "dropout_seed": 2**40 + 7},
    "key-lengths": {"batch": 2, "key_lengths": (600, 333)},
    "packed": {"batch": 2, "query_lengths": (530, 411), "key_lengths": (600, 599)},
    "packed-many": {
        "batch": 24,
        "query_lengths": tuple(range(1, 265, 11)),
        "key_lengths": tuple(range(300, 36, -11)),
    },
    "window-softcap-alibi-sinks-float-dropout": {
        "window": (300, 100),
        "softcap": 1.5,
        "alibi": True,
        "sinks": True,
        "mask": "float",
        "mask_axes": "hqk",
        "dropout": 0.1,
    },
}
DECODING: Mapping[str, Mapping[str, Any]] = {
    "gqa": {},
    "mha": {"num_kv_heads": 8},
    "mqa": {"num_kv_heads": 1, "head_dim": 128, "head_dim_v": 64},
    "everything": {
        "window": (1500, None),
        "softcap": 3.0,
        "alibi": True,
        "sinks": True,
        "key_lengths": (2100, 777),
    },
    "mask": {"mask": "float", "mask_axes": "bhqk"},
    "paged-16": {"page_size": 16, "key_lengths": (2100, 777)},
    "paged-128-everything": {
        "page_size": 128,
        "key_lengths": (2000, 2100),
        "window": (1500, None),
        "softcap": 3.0,
        "alibi": True,
        "sinks": True,
    },
}


def larger_cases(case_type: Any, problem_of: Callable[..., Any]) -> Iterator[Any]:
    """Cases with more tiles, heads and keys than those of `verify`."""
    for dtype, (name, seqlen_q, change, fields) in itertools.product(DTYPES, larger_problems()):
        problem = problem_of(seqlen_q, dtype=dtype, **fields)
        yield case_type(f"{name}-{dtype}", "larger", problem, change=change)


def larger_problems() -> Iterator[tuple[str, int, Callable[[Any], Any] | None, Mapping[str, Any]]]:
    """Name, seqlen_q, what lays the inputs out, and further fields of a problem."""
    for (layout, change), (masking, masked) in itertools.product(LAYOUTS.items(), MASKINGS.items()):
        end = f"{masking}-{layout}"
        for name, seqlen_q, fields in SHAPES:
            yield f"{name}-{end}", seqlen_q, change, {**fields, **masked}
        for name, fields in FEATURES.items():
            yield f"larger-{name}-{end}", 530, change, {**BASE, **fields, **masked}
    for (layout, change), seqlen_q in itertools.product(LAYOUTS.items(), (1, 5, 16)):
        for name, fields in DECODING.items():
            shape = {"seqlen_k": 2100, "batch": 2, "num_heads": 8, "num_kv_heads": 2, "causal": True}
            yield f"decode-{seqlen_q}x2100-{name}-{layout}", seqlen_q, change, {**shape, **fields}
    for (word, value), place in itertools.product(VALUES.items(), ("q", "k", "v", "do")):
        for masking, masked in MASKINGS.items():
            yield f"larger-{word}-in-{place}-{masking}", 530, put(value, place), {**BASE, **masked}
    for name in ("plain", "sinks", "packed"):
        yield f"larger-{name}-padded-rows", 530, padded_rows, {**BASE, **FEATURES[name]}


def public_calls() -> Iterator[tuple[str, Any]]:
    """Keys, and what the public functions return; None where a call has no such gradient."""
    for dtype in DTYPES:
        calls = _PublicCalls(dtype)
        for engine in _ENGINES:
            for call in (calls.one_head, calls.with_gradients, calls.varlen, calls.kv_cache):
                yield from calls.keys(call.__name__, engine, call(engine))
        for call in (calls.paged_kv_cache, calls.merge):
            yield from calls.keys(call.__name__, "flash", call("flash"))


class _PublicCalls:
    """Each method is one call forward, and most of them backward, with arrays of its own."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype

    def keys(self, call: str, engine: str, results: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
        """The keys of an AttentionOutput and, if there are any, AttentionGradients."""
        start = f"api-{call.replace('_', '-')}/{engine}/{self._dtype}"
        forward, *backward = results
        yield from zip((f"{start}/fwd/o", f"{start}/fwd/lse"), forward, strict=True)
        for gradients in backward:
            named = {name: getattr(gradients, name) for name in ("dsinks", "dmask")}
            named |= zip(("dq", "dk", "dv"), gradients, strict=True)
            yield from ((f"{start}/bwd/{name}", x) for name, x in named.items())

    def one_head(self, engine: str) -> tuple[Any, ...]:
        """3-D arrays."""
        q, k, v, do = self._normal(*[(2, 150, 48)] * 4)
        o, lse = output = attention(q, k, v, engine=engine, return_lse=True)
        return output, attention_backward(do, q, k, v, o, lse, engine=engine)

    def with_gradients(self, engine: str) -> tuple[Any, ...]:
        """Views by rows, a mask that is broadcast, and every gradient."""
        q, k, v, do = self._normal((2, 300, 4, 64), (2, 300, 2, 64), (2, 300, 2, 64), (2, 300, 4, 64))
        arrays = [x.swapaxes(1, 2) for x in (q, k, v)]
        mask, sinks = self._normal((4, 1, 300), (4,))
        options: Any = {"causal": True, "mask": mask, "sinks": sinks, "engine": engine}
        o, lse = output = attention(*arrays, return_lse=True, **options)
        do = do.swapaxes(1, 2)
        return output, attention_backward(do, *arrays, o, lse, return_dmask=True, **options)

    def varlen(self, engine: str) -> tuple[Any, ...]:
        """Packed sequences, one of them empty."""
        q, k, v, do = self._normal((400, 4, 40), (400, 2, 40), (400, 2, 24), (400, 4, 24))
        starts = np.array([0, 70, 70, 371, 400])
        o, lse = output = attention_varlen(q, k, v, starts, starts, engine=engine, return_lse=True)
        return output, attention_varlen_backward(do, q, k, v, o, lse, starts, starts, engine=engine)

    def kv_cache(self, engine: str) -> tuple[Any, ...]:
        """One new query of each sequence."""
        cache = KVCache(3, 2, 64, dtype=self._dtype)
        query = self._fill(cache)
        options: Any = {"key_lengths": cache.key_lengths, "engine": engine}
        return (attention(query, cache.k, cache.v, return_lse=True, **options),)

    def paged_kv_cache(self, engine: str) -> tuple[Any, ...]:
        """The same with keys in pages."""
        cache = PagedKVCache(3, 2, 64, num_pages=200, page_size=16, dtype=self._dtype)
        query = self._fill(cache)
        options: Any = {"key_lengths": cache.key_lengths, "block_table": cache.block_table, "engine": engine}
        return (attention(query, cache.k, cache.v, return_lse=True, **options),)

    def merge(self, engine: str) -> tuple[Any, ...]:
        """The parts of some of the keys each."""
        q, k, v = self._normal(*[(2, 4, 300, 64)] * 3)
        parts = [
            attention(q, k[:, :, keys], v[:, :, keys], engine=engine, return_lse=True)
            for keys in (slice(100), slice(100, None))
        ]
        return (merge_attention(*zip(*parts, strict=True)),)

    def _fill(self, cache: Any) -> Any:
        """Some tokens of a cache of 2 heads for 3 sequences, and the next query."""
        for count in (700, 1, 33):
            cache.append(*self._normal(*[(3, 2, count, 64)] * 2))
        return self._normal((3, 8, 1, 64))[0]

    def _normal(self, *shapes: tuple[int, ...]) -> list[Any]:
        rng = np.random.default_rng(_SEED)
        return [rng.standard_normal(shape).astype(self._dtype) for shape in shapes]
