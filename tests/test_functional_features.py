"""attention and attention_backward: every option and array of a feature reaches the engine as it is meant."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.feature_problems import problems as feature_problems
from helpers.feature_problems import random_extras
from helpers.oracle_engine import OracleEngine
from helpers.public_calls import options_of
from helpers.support import assert_close
from hypothesis import given
from hypothesis import strategies as st

from flashbench.block_mask import BlockMask
from flashbench.engines import AttentionGradients
from flashbench.errors import AttentionError, UnsupportedError
from flashbench.extras import alibi_slopes
from flashbench.functional import attention, attention_backward
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference


@given(problem=feature_problems(without=frozenset(["varlen", "block_table"])), seed=st.integers(0, 99))
def test_every_option_reaches_the_engine(problem: AttentionProblem, seed: int, oracle: OracleEngine) -> None:
    q, k, v, do = problem.make_inputs(seed)
    extras = random_extras(problem, seed)
    options = {**options_of(problem, extras), "engine": "oracle"}
    o, lse = attention(q, k, v, return_lse=True, **options)
    expected_o, expected_lse = attention_reference(problem, q, k, v, extras)
    assert np.array_equal(o, expected_o)
    assert np.array_equal(lse, expected_lse)
    assert oracle.problem.features == problem.features
    assert oracle.problem.visible_pairs == problem.visible_pairs
    return_dmask = problem.mask == "float"
    found = attention_backward(do, q, k, v, o, lse, return_dmask=return_dmask, **options)
    expected = attention_backward_reference(problem, do, q, k, v, extras)
    assert all(map(np.array_equal, found, expected))
    for name in ("dsinks", "dmask"):
        actual, exact = getattr(found, name), getattr(expected, name)
        assert (actual is None) == (exact is None)
        assert actual is None or np.array_equal(actual, exact)


@given(
    problem=feature_problems(without=frozenset(["varlen", "mask", "key_lengths", "block_table"])),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_keys_in_pages_are_found_by_their_table(
    problem: AttentionProblem, data: st.DataObject, seed: int, oracle: OracleEngine
) -> None:
    lengths = st.lists(st.integers(0, problem.seqlen_k), min_size=problem.batch, max_size=problem.batch)
    problem = msgspec.structs.replace(
        problem,
        key_lengths=tuple(data.draw(lengths.filter(any))),
        page_size=data.draw(st.integers(1, 4)),
    )
    q, k, v, _ = problem.make_inputs(seed)
    extras = random_extras(problem, seed)
    options = {**options_of(problem, extras), "engine": "oracle"}
    o, lse = attention(q, k, v, return_lse=True, **options)
    expected_o, expected_lse = attention_reference(problem, q, k, v, extras)
    assert np.array_equal(o, expected_o)
    assert np.array_equal(lse, expected_lse)
    assert oracle.problem.seqlen_k == max(problem.key_lengths)
    assert oracle.problem.page_size == problem.page_size


def test_a_table_may_be_wider_than_its_pages_and_hold_anything_behind_them(oracle: OracleEngine) -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((2, 3, 1, 4)), *rng.standard_normal((2, 5, 3, 2, 4))
    table = np.array([[4, 1, -1, 99], [3, -7, 0, 0]], np.int32)
    o = attention(q, k, v, block_table=table, key_lengths=[3, 0], engine="oracle")
    keys, values = (np.concatenate(x[[4, 1]], axis=1)[None, :, :3] for x in (k, v))
    assert_close(o[:1], attention(q[:1], keys, values, engine="numpy"), 1e-15)
    assert not o[1].any()
    assert oracle.extras.block_table.tolist() == [[4, 1], [0, 0]]
    assert oracle.problem.seqlen_k == 3


def test_one_head_in_pages(oracle: OracleEngine) -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((2, 1, 4)), *rng.standard_normal((2, 5, 2, 4))
    options = {"block_table": [[1, 2], [0, 3]], "key_lengths": [4, 3], "engine": "oracle"}
    o = attention(q, k, v, **options)
    assert np.array_equal(o, attention(q[:, None], k[:, None], v[:, None], **options)[:, 0])


MASKS = {
    "of a key": (9,),
    "of a pair": (6, 9),
    "of a query": (6, 1),
    "of a head": (4, 1, 1),
    "of a sequence and key": (2, 1, 1, 9),
    "of everything": (2, 4, 6, 9),
}


@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("engine", ["oracle", "flash", "standard"])
def test_masks_are_what_pytorch_calls_attn_mask(
    engine: str, shape: tuple[int, ...], oracle: OracleEngine
) -> None:
    torch = pytest.importorskip("torch")
    sdpa = torch.nn.functional.scaled_dot_product_attention
    problem = AttentionProblem.of(6, seqlen_k=9, batch=2, num_heads=4, head_dim=8)
    q, k, v, do = problem.make_inputs()
    rng = np.random.default_rng(1)
    bias, bits = rng.standard_normal(shape), rng.random(shape) < 0.7
    tensors = [torch.tensor(x, requires_grad=True) for x in (q, k, v, bias)]
    # PyTorch takes no mask in one dimension, nor a narrower one than the keys.
    expected = sdpa(*tensors[:3], attn_mask=torch.broadcast_to(tensors[3], (2, 4, 6, 9)))
    o, lse = attention(q, k, v, mask=bias, engine=engine, return_lse=True)
    assert_close(o, expected.detach().numpy(), 1e-12)
    expected.backward(torch.tensor(do))
    found = attention_backward(do, q, k, v, o, lse, mask=bias, engine=engine, return_dmask=True)
    assert found.dmask is not None
    for actual, tensor in zip((*found, found.dmask), tensors, strict=True):
        assert_close(actual, tensor.grad.numpy(), 1e-12)
    expected = sdpa(*tensors[:3], attn_mask=torch.broadcast_to(torch.tensor(bits), (2, 4, 6, 9)))
    assert_close(attention(q, k, v, mask=bits, engine=engine), expected.detach().numpy(), 1e-12)


@pytest.mark.parametrize("shape", [(9,), (6, 9), (2, 1, 9), (1, 6, 1)])
def test_a_mask_of_one_head_gets_its_gradient_in_its_own_shape(
    shape: tuple[int, ...], oracle: OracleEngine
) -> None:
    q, k, v, do = (x[:, 0] for x in AttentionProblem.of(6, seqlen_k=9, batch=2, head_dim=8).make_inputs())
    mask = np.random.default_rng(1).standard_normal(shape)
    o, lse = attention(q, k, v, mask=mask, engine="oracle", return_lse=True)
    found = attention_backward(do, q, k, v, o, lse, mask=mask, engine="oracle", return_dmask=True)
    assert found.dmask is not None
    assert found.dmask.shape == shape
    step = 1e-6 * np.random.default_rng(2).standard_normal(shape)
    sides = [(do * attention(q, k, v, mask=mask + sign * step, engine="oracle")).sum() for sign in (1, -1)]
    assert (sides[0] - sides[1]) / 2 == pytest.approx((found.dmask * step).sum(), rel=1e-6)


def test_a_gradient_of_a_mask_is_refused_where_there_is_none(oracle: OracleEngine) -> None:
    x = np.ones((1, 2, 3))
    arguments = (x, x, x, x, x, x[..., 0])
    with pytest.raises(AttentionError, match="return_dmask needs a mask of floats, not none"):
        attention_backward(*arguments, engine="oracle", return_dmask=True)
    with pytest.raises(AttentionError, match="return_dmask needs a mask of floats, not a bool mask"):
        attention_backward(*arguments, mask=np.ones(2, bool), engine="oracle", return_dmask=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "backward", lambda *_, **__: AttentionGradients(x, x, x))
        with pytest.raises(UnsupportedError, match="engine 'oracle' gives no gradient of a mask"):
            attention_backward(*arguments, mask=np.ones(2), engine="oracle", return_dmask=True)


def test_a_block_mask_is_what_it_is_dense(oracle: OracleEngine) -> None:
    q, k, v, _ = AttentionProblem.of(6, seqlen_k=9, batch=2, num_heads=4, head_dim=8).make_inputs()
    bits = np.random.default_rng(1).random((4, 6, 9)) < 0.4
    o = attention(q, k, v, mask=BlockMask.from_mask(bits, (2, 3)), engine="oracle")
    assert np.array_equal(o, attention(q, k, v, mask=bits, engine="oracle"))


def test_features_take_arrays_of_other_libraries_and_do_not_write_to_them(oracle: OracleEngine) -> None:
    torch = pytest.importorskip("torch")
    problem = AttentionProblem.of(6, batch=2, num_heads=4, head_dim=8, dtype="float32")
    q, k, v, _ = problem.make_inputs()
    arrays: dict[str, Any] = {
        "mask": np.random.default_rng(1).standard_normal((6, 6)).astype("f4"),
        "alibi_slopes": alibi_slopes(4).astype("f4"),
        "sinks": np.ones(4, "f4"),
        "key_lengths": np.array([5, 6]),
    }
    expected = attention(q, k, v, engine="oracle", **arrays)
    tensors = {name: torch.from_numpy(x.copy()) for name, x in arrays.items()}
    assert np.array_equal(attention(q, k, v, engine="oracle", **tensors), expected)
    assert all(np.array_equal(x, tensors[name].numpy()) for name, x in arrays.items())
    assert np.shares_memory(oracle.extras.mask, tensors["mask"].numpy())
    assert np.shares_memory(oracle.extras.sinks, tensors["sinks"].numpy())


def test_slopes_are_taken_in_the_dtype_of_q(oracle: OracleEngine) -> None:
    q, k, v, _ = AttentionProblem.of(6, num_heads=4, head_dim=8, dtype="float32").make_inputs()
    attention(q, k, v, alibi_slopes=alibi_slopes(4), engine="oracle")
    assert oracle.extras.alibi_slopes.dtype == np.float32
    assert np.array_equal(oracle.extras.alibi_slopes, [alibi_slopes(4).astype("f4")])
    with pytest.raises(AttentionError, match="alibi_slopes must be finite in float32, not inf"):
        attention(q, k, v, alibi_slopes=np.full(4, 1e300), engine="oracle")


def test_the_same_seed_drops_the_same_and_another_does_not(oracle: OracleEngine) -> None:
    q, k, v, _ = AttentionProblem.of(40).make_inputs()
    first, second, other = (
        attention(q, k, v, dropout=0.5, dropout_seed=seed, engine="flash") for seed in (2**63, 2**63, 1)
    )
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)
