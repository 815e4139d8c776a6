"""`dot_product_attention` equals JAX's own: every option, gradients, transforms; and what it refuses."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it would look for others, and log that there are none
jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax.nn import dot_product_attention as of_jax
from jax.test_util import check_grads

import flashbench
from flashbench.errors import AttentionError
from flashbench.integrations.jax import attention as module
from flashbench.integrations.jax import dot_product_attention
from flashbench.integrations.jax.handlers import operation

BATCH, ROWS, KEYS, HEADS, SHARED, DIM = 2, 19, 23, 4, 2, 16


def made(seed: int, *shape: int, dtype: Any = jnp.float32) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def qkv(dtype: Any = jnp.float32) -> tuple[Any, Any, Any]:
    return (
        made(0, BATCH, ROWS, HEADS, DIM, dtype=dtype),
        made(1, BATCH, KEYS, SHARED, DIM, dtype=dtype),
        made(2, BATCH, KEYS, SHARED, DIM, dtype=dtype),
    )


def lengths(*values: int) -> Any:
    return jnp.array(values, jnp.int32)


MASK = jnp.asarray(np.random.default_rng(5).random((BATCH, 1, ROWS, KEYS)) < 0.3).at[0, :, 4].set(False)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "window": {"local_window_size": (5, 2)},
    "window of one size, causal": {"local_window_size": 3, "is_causal": True},
    "bias": {"bias": made(3, BATCH, HEADS, ROWS, KEYS)},
    "bias for all sequences": {"bias": made(3, 1, HEADS, 1, KEYS)},
    "bias without batch": {"bias": made(3, HEADS, ROWS, KEYS)},
    "mask": {"mask": MASK},
    "bias and mask": {"bias": made(3, 1, 1, ROWS, KEYS), "mask": MASK},
    "key lengths": {"key_value_seq_lengths": lengths(7, KEYS)},
    "a sequence without keys": {"key_value_seq_lengths": lengths(0, 5)},
    "query lengths": {"query_seq_lengths": lengths(4, ROWS)},
    "all": {
        "bias": made(3, 1, HEADS, ROWS, KEYS), "mask": MASK, "is_causal": True, "local_window_size": (9, 9),
        "query_seq_lengths": lengths(15, ROWS), "key_value_seq_lengths": lengths(12, 20),
    },
}  # fmt: skip
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))


def close(found: Any, expected: Any, allowed: float = 3e-6) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=allowed, atol=allowed)


def gradients(function: Any, options: dict[str, Any]) -> Any:
    """By query, key, value and bias, of a function of o that is not linear."""
    options = dict(options)
    bias = options.pop("bias", None)

    def loss(q: Any, k: Any, v: Any, bias: Any) -> Any:
        return jnp.sin(function(q, k, v, bias, **options).astype(jnp.float32)).sum()

    places = (0, 1, 2) if bias is None else (0, 1, 2, 3)
    return jax.jit(jax.grad(loss, places))(*qkv(), bias)


def test_signature() -> None:
    ours, theirs = (inspect.signature(f).parameters.values() for f in (dot_product_attention, of_jax))
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


@each_option
def test_output_and_residual(options: dict[str, Any]) -> None:
    for found, expected in zip(
        dot_product_attention(*qkv(), **options, return_residual=True),
        of_jax(*qkv(), **options, return_residual=True),
        strict=True,
    ):
        close(found, expected)
    close(jax.jit(lambda *x: dot_product_attention(*x, **options))(*qkv()), of_jax(*qkv(), **options))


@each_option
def test_gradients(options: dict[str, Any]) -> None:
    for found, expected in zip(
        gradients(dot_product_attention, options), gradients(of_jax, options), strict=True
    ):
        close(found, expected, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_halves_as_exact_as_theirs(dtype: Any) -> None:
    q, k, v = qkv(dtype)
    wide = of_jax(*(x.astype(jnp.float32) for x in (q, k, v)), is_causal=True)
    ours, theirs = (f(q, k, v, is_causal=True) for f in (dot_product_attention, of_jax))
    assert ours.dtype == dtype
    errors = [float(jnp.abs(x.astype(jnp.float32) - wide).max()) for x in (ours, theirs)]
    assert errors[0] <= 2 * errors[1] + 1e-5
    slope = jax.grad(lambda q: dot_product_attention(q, k, v).astype(jnp.float32).sum())(q)
    assert slope.dtype == dtype
    assert jnp.isfinite(slope).all()


def test_float64_is_exact_where_jax_rounds_to_float32() -> None:
    with jax.enable_x64(True):
        q, k, v = qkv(jnp.float64)
        o, lse = dot_product_attention(q, k, v, is_causal=True, return_residual=True)
        by_engine = flashbench.attention(
            *(np.asarray(x).swapaxes(1, 2) for x in (q, k, v)), causal=True, causal_alignment="top-left",
            return_lse=True, engine="standard",
        )  # fmt: skip
        close(o.swapaxes(1, 2), by_engine.o, 1e-14)
        close(lse.swapaxes(1, 2), by_engine.lse, 1e-14)
        check_grads(
            lambda *x: dot_product_attention(*x, is_causal=True),
            (q[:1, :5], k[:1, :5], v[:1, :5]),
            1,
            ["rev"],
        )


@pytest.mark.parametrize("over", ["all", "query", "bias for all sequences"])
def test_vmap(over: str) -> None:
    q, k, v = qkv()
    many = jnp.stack([q, q + 1, q * 2])
    if over == "all":
        others = [jnp.stack([x, -x, x + 1]) for x in (k, v)]
        found = jax.vmap(dot_product_attention)(many, *others)
        expected = [of_jax(*x) for x in zip(many, *others, strict=True)]
    elif over == "query":
        found = jax.vmap(lambda q: dot_product_attention(q, k, v, mask=MASK))(many)
        expected = [of_jax(x, k, v, mask=MASK) for x in many]
    else:
        bias = made(4, 3, 1, HEADS, ROWS, KEYS)

        def slope(f: Any) -> Any:
            return lambda q, b: jax.grad(lambda b: jnp.sin(f(q, k, v, b)).sum())(b)

        found = jax.jit(jax.vmap(slope(dot_product_attention)))(many, bias)
        expected = [slope(of_jax)(*x) for x in zip(many, bias, strict=True)]
    close(found, jnp.stack(expected), 1e-5)


def test_vmap_within_vmap() -> None:
    q, k, v = (jnp.stack([jnp.stack([x, x + 1]), jnp.stack([-x, 2 * x]), jnp.stack([x, x])]) for x in qkv())
    found = jax.vmap(jax.vmap(lambda *x: dot_product_attention(*x, is_causal=True)))(q, k, v)
    close(found[1, 1], of_jax(q[1, 1], k[1, 1], v[1, 1], is_causal=True))


def _scaled_sum(attention: Any, outer: Any, scale: Any) -> Any:
    return outer(attention(*qkv(), scale=scale)).sum()


def test_a_scale_that_is_learned() -> None:
    for outer in (lambda o: o, jnp.sin):
        found, expected = (
            jax.jit(jax.value_and_grad(functools.partial(_scaled_sum, f, outer)))(0.3)
            for f in (dot_product_attention, of_jax)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_without_batch_and_from_numpy() -> None:
    q, k, v = (np.asarray(x[0]) for x in qkv())
    close(dot_product_attention(q, k, v), of_jax(q, k, v))


def test_another_implementation_is_jaxs() -> None:
    assert (dot_product_attention(*qkv(), implementation="xla") == of_jax(*qkv())).all()


@pytest.mark.parametrize("options", [OPTIONS["all"], OPTIONS["mask"]], ids=["all", "mask"])
def test_by_callback_where_xla_has_another_interface(options: dict[str, Any], monkeypatch: Any) -> None:
    for name in ("_FORWARD", "_BACKWARD"):
        by_callback = operation("unused", getattr(module, name).compute, by_callback=True)
        assert getattr(module, name).handler is not None  # else the other tests are of the callback alone
        monkeypatch.setattr(module, name, by_callback)
    close(dot_product_attention(*qkv(), **options), of_jax(*qkv(), **options))
    q, k, v = qkv()
    many = jnp.stack([q, q + 1])
    found = jax.vmap(jax.grad(lambda q: jnp.sin(dot_product_attention(q, k, v)).sum()))(many)
    close(found[1], jax.grad(lambda q: jnp.sin(of_jax(q, k, v)).sum())(q + 1), 1e-5)


def test_an_error_of_ours_reaches_the_caller_under_jit() -> None:
    def fail(arguments: Any, results: Any, options: str) -> None:
        raise ValueError(f"this is {options}")

    failing = operation("flashbench_test_failing", fail)
    result = [jax.ShapeDtypeStruct((3,), jnp.float32)]
    with pytest.raises(Exception, match="ValueError: this is wrong"):
        jax.block_until_ready(jax.jit(lambda x: failing(result, [x], "wrong"))(jnp.ones(3)))


def test_memory_is_linear_in_the_length() -> None:
    """XLA's own would need 2 GiB for the scores of one head."""
    script = """
import resource, jax, jax.numpy as jnp
from flashbench.integrations.jax import dot_product_attention
x = jnp.ones((1, 24_000, 1, 8))
f = jax.jit(jax.grad(lambda x: dot_product_attention(x, x, x, local_window_size=64).sum()))
small = jnp.ones((1, 64, 1, 8))
f(small).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
f(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200


REFUSED = {
    "window": (lambda q, k, v: dot_product_attention(q, k, v, local_window_size=(-1, 3)), "at least 0"),
    "dimensions": (lambda q, k, v: dot_product_attention(q[None], k, v), "query must"),
    "dtypes": (lambda q, k, v: dot_product_attention(q, k.astype(jnp.bfloat16), v), "key must be of"),
    "whole numbers": (
        lambda q, k, v: dot_product_attention(*(x.astype(int) for x in (q, k, v))),
        "query must",
    ),
    "batch": (lambda q, k, v: dot_product_attention(q, k[:1], v[:1]), "key must have query's batch"),
    "value": (lambda q, k, v: dot_product_attention(q, k, v[:, :4]), "value must have key's shape"),
    "heads": (lambda q, k, v: dot_product_attention(q[:, :, :3], k, v), "must divide"),
    "mask's dtype": (
        lambda q, k, v: dot_product_attention(q, k, v, mask=jnp.ones((1, 1, ROWS, KEYS))),
        "bool",
    ),
    "bias": (
        lambda q, k, v: dot_product_attention(q, k, v, jnp.ones((1, 1, ROWS, 5))),
        "bias must broadcast",
    ),
    "lengths": (lambda q, k, v: dot_product_attention(q, k, v, query_seq_lengths=jnp.ones(2)), "of int32"),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refused(call: Any, words: str) -> None:
    with pytest.raises(AttentionError, match=words):
        call(*qkv())


def test_the_missing_package_is_named() -> None:
    script = """
import sys
sys.modules["jax"] = None
from flashbench.errors import EngineError
try:
    import flashbench.integrations.jax
except EngineError as error:
    print(error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "pip install 'flashbench[jax]'\n"
