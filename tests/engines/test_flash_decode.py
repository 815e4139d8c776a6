"""Few queries against many keys: split over keys, GQA rows together, pages; exact with any threads."""

import msgspec
import numpy as np
import pytest
from helpers.support import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbench.engines import Settings, refusal
from flashbench.engines.flash.decode import decode_plan, decodes
from flashbench.engines.flash.engine import FlashEngine
from flashbench.extras import make_extras
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_reference
from flashbench.tolerances import tolerance_for

FLASH = FlashEngine()
FEATURES = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (300, 5)},
    "top-left": {"causal": True, "causal_alignment": "top-left"},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool-mask": {"mask": "bool", "mask_axes": "bhqk"},
    "float-mask": {"mask": "float", "mask_axes": "bk"},
    "key-lengths": {"key_lengths": (1500, 0)},
    "varlen": {"query_lengths": (1, 0), "key_lengths": (1111, 300)},
    "pages": {"key_lengths": (1500, 31), "page_size": 16},
    "odd-pages": {"key_lengths": (0, 1503), "page_size": 7},
}


def check(problem, chosen=None):
    chosen = chosen or Settings()
    assert decodes(problem, chosen)
    extras = make_extras(problem)
    q, k, v, _ = problem.make_inputs()
    o, lse = attention_reference(problem, q, k, v, extras)
    found = FLASH.forward(problem, chosen, q, k, v, extras=extras)
    assert_close(found.o, o, tolerance_for(problem.dtype, "o"))
    assert_close(found.lse, lse, 4 * tolerance_for(problem.dtype, "lse"))
    return found


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("seqlen_q", [1, 3, 16])
@pytest.mark.parametrize("name", FEATURES)
def test_decoding_is_exact(name, seqlen_q, num_heads, num_kv_heads, dtype):
    check(
        AttentionProblem.of(
            seqlen_q,
            seqlen_k=1503,
            batch=2,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=40,
            head_dim_v=24,
            dtype=dtype,
            **FEATURES[name],
        )
    )


@settings(max_examples=100)
@given(data=st.data())
def test_pages_of_any_size_in_any_order_are_exact(data):
    page_size, batch = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    lengths = tuple(data.draw(st.integers(0, 700)) for _ in range(batch))
    problem = AttentionProblem.of(
        data.draw(st.integers(1, 40)),
        seqlen_k=max(1, *lengths),
        batch=batch,
        num_heads=4,
        num_kv_heads=data.draw(st.sampled_from([1, 2, 4])),
        head_dim=data.draw(st.integers(1, 20)),
        causal=data.draw(st.booleans()),
        key_lengths=lengths,
        page_size=page_size,
    )
    if not problem.key_rows:  # a pool without a page
        return
    check(problem, Settings(block_k=data.draw(st.integers(1, 200))))


def test_bits_do_not_depend_on_the_number_of_threads():
    problem = AttentionProblem.of(2, seqlen_k=5000, batch=2, num_heads=8, num_kv_heads=2, head_dim=16)
    assert decode_plan(problem, Settings()).tasks > 8
    found = [check(problem, Settings(num_threads=threads)) for threads in (1, 2, 3, 8)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].o, other.o)
        np.testing.assert_array_equal(found[0].lse, other.lse)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_just_the_rows_that_see_it(value):
    problem = AttentionProblem.of(8, seqlen_k=600, num_heads=4, num_kv_heads=2, causal=True, head_dim=8)
    for place in (599, 595, 300):
        for name in ("k", "v"):
            inputs = problem.make_inputs()
            getattr(inputs, name)[:, 0, place] = value
            q, k, v, _ = inputs
            o = attention_reference(problem, q, k, v)[0]
            found = FLASH.forward(problem, Settings(), q, k, v).o
            np.testing.assert_array_equal(np.isnan(found), np.isnan(o))
            finite = np.isfinite(o)
            assert_close(found[finite], o[finite], tolerance_for("float64", "o"))


def test_one_query_alone_is_the_last_of_many():
    """Decoding step by step relies on this."""
    whole = AttentionProblem.of(600, num_heads=4, num_kv_heads=2, causal=True, softcap=5.0, alibi=True)
    extras = make_extras(whole)
    q, k, v, _ = whole.make_inputs()
    last = msgspec.structs.replace(whole, seqlen_q=1)
    step = FLASH.forward(last, Settings(), q[:, :, -1:], k, v, extras=extras)
    assert_close(step.o, FLASH.forward(whole, Settings(), q, k, v, extras=extras).o[:, :, -1:], 1e-13)


def test_pages_have_no_backward_and_say_so():
    problem = AttentionProblem.of(1, seqlen_k=64, key_lengths=(64,), page_size=16)
    assert refusal(FLASH, problem, "fwd") is None
    assert refusal(FLASH, problem, "bwd") == "keys in pages have no backward"
    dropped = msgspec.structs.replace(problem, dropout=0.5)
    assert "no dropout" in refusal(FLASH, dropped, "fwd")
