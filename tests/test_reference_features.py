"""The oracle on any subset of the optional features: finite differences, and changes that must not matter."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.feature_problems import problems, random_extras, visible_pairs
from helpers.support import assert_close
from hypothesis import assume, given
from hypothesis import strategies as st

from flashbench import reference
from flashbench.block_mask import BlockMask
from flashbench.errors import AttentionError
from flashbench.extras import NO_EXTRAS, Extras, make_extras
from flashbench.philox import dropout_kept
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import attention_backward_reference, attention_reference, head_group

PAGES = frozenset({"block_table"})
WITH_GRADIENTS = problems(without=PAGES)
Answers = dict[str, np.ndarray]


def answers(problem: AttentionProblem, inputs: Inputs, extras: Extras = NO_EXTRAS, **options: Any) -> Answers:
    q, k, v, do = inputs
    o, lse = attention_reference(problem, q, k, v, extras, **options)
    found = {"o": o, "lse": lse}
    if problem.page_size is None:
        gradients = attention_backward_reference(problem, do, q, k, v, extras, **options)
        found.update(gradients._asdict(), dsinks=gradients.dsinks, dmask=gradients.dmask)
    return {name: x for name, x in found.items() if x is not None}


def assert_same(found: Answers, expected: Answers, tolerance: float = 1e-12) -> None:
    """Compare the outputs that both have. Not every pair has dsinks and dmask."""
    for name in found.keys() & expected.keys():
        assert_close(found[name], expected[name], tolerance)


def replaced(problem: AttentionProblem, **fields: Any) -> AttentionProblem:
    return msgspec.structs.replace(problem, **fields)


@given(problem=WITH_GRADIENTS, data=st.data())
def test_gradients_agree_with_central_differences(problem: AttentionProblem, data: st.DataObject) -> None:
    inputs, extras = problem.make_inputs(3), random_extras(problem, 4)
    gradients = answers(problem, inputs, extras)
    moving = [
        "q",
        "k",
        "v",
        *(["sinks"] if problem.sinks else []),
        *(["mask"] if problem.mask == "float" else []),
    ]
    name = data.draw(st.sampled_from(moving))
    gradient = gradients["d" + name]
    direction = np.random.default_rng(5).standard_normal(gradient.shape) / math.sqrt(max(1, gradient.size))

    def loss(step: float) -> float:
        moved, moved_extras = inputs, extras
        if name == "mask":
            moved_extras = extras._replace(mask=extras.mask + step * direction)
        elif name == "sinks":
            moved_extras = extras._replace(sinks=extras.sinks + step * direction)
        else:
            moved = inputs._replace(**{name: getattr(inputs, name) + step * direction})
        o, _ = attention_reference(problem, *moved[:3], moved_extras)
        return float((inputs.do * o).sum())

    h = 1e-3  # fourth order by Richardson; softcap's slopes make the fifth derivative large
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-7, abs=1e-8)


# Changes that must make no difference.


@given(problem=problems())
def test_a_window_wider_than_the_sequence_is_none(problem: AttentionProblem) -> None:
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    wide = replaced(problem, window_left=99, window_right=99)
    full = replaced(problem, window_left=None, window_right=None)
    assert_same(answers(wide, inputs, extras), answers(full, inputs, extras))


@given(problem=problems())
def test_a_window_of_none_on_the_right_is_causal(problem: AttentionProblem) -> None:
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    causal = replaced(problem, causal=True)
    window = replaced(problem, causal=False, window_right=0)
    assert_same(answers(causal, inputs, extras), answers(window, inputs, extras))


@given(problem=problems(without=frozenset({"softcap", "alibi", "sinks", "mask", "dropout"})))
def test_features_that_do_nothing_change_nothing(problem: AttentionProblem) -> None:
    inputs, plain = problem.make_inputs(0), make_extras(problem)
    idle = replaced(problem, softcap=1e8, alibi=True, sinks=True, mask="float", mask_axes="", dropout=1e-11)
    extras = plain._replace(
        mask=np.zeros((problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)),
        alibi_slopes=np.zeros((problem.batch, problem.num_heads)),
        sinks=np.full(problem.num_heads, -np.inf),
    )
    expected = answers(problem, inputs, plain)
    found = answers(idle, inputs, extras)
    assert_same(found, expected, 1e-9)  # dropout of 1e-11 makes 1 / (1 - dropout), and drops nothing
    if problem.page_size is None:
        assert not found["dsinks"].any()


@given(
    problem=problems(without=frozenset({"mask"})),
    axes=st.sets(st.sampled_from("bhqk")),
    seed=st.integers(0, 99),
)
def test_kinds_of_mask_hide_alike(problem: AttentionProblem, axes: set[str], seed: int) -> None:
    masked = replaced(problem, mask="bool", mask_axes="".join(a for a in "bhqk" if a in axes))
    inputs, extras = problem.make_inputs(0), random_extras(masked, seed)
    expected = answers(masked, inputs, extras)
    added = np.where(extras.mask, 0.0, -np.inf)
    found = answers(replaced(masked, mask="float"), inputs, extras._replace(mask=added))
    assert_same(found, expected, 1e-14)
    blocks = replaced(masked, mask="block", mask_axes="bhqk", mask_block_q=2, mask_block_k=3)
    found = answers(blocks, inputs, extras._replace(mask=BlockMask.from_mask(extras.mask, block=(2, 3))))
    assert_same(found, expected, 0.0)


@given(problem=problems(without=frozenset({"varlen", "key_lengths"})))
def test_sequences_of_full_length_are_a_batch_whether_packed_or_not(problem: AttentionProblem) -> None:
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    expected = answers(problem, inputs, extras)
    keys = (problem.seqlen_k,) * problem.batch
    assert_same(answers(replaced(problem, key_lengths=keys), inputs, extras), expected, 0.0)

    def joined(x: np.ndarray) -> np.ndarray:
        return np.concatenate(list(x), axis=1)[np.newaxis]

    paged = problem.page_size is not None
    packed = Inputs(*(x if name in "kv" and paged else joined(x) for name, x in inputs._asdict().items()))
    queries = (problem.seqlen_q,) * problem.batch
    found = answers(replaced(problem, key_lengths=keys, query_lengths=queries), packed, extras)
    of_queries = {name: joined(x) for name, x in expected.items() if name not in ("dsinks", "dmask")}
    assert_same(found, {**expected, **of_queries}, 0.0)


@given(problem=problems(without=PAGES), page_size=st.integers(1, 5))
def test_keys_may_lie_in_pages_in_any_order(problem: AttentionProblem, page_size: int) -> None:
    paged = replaced(problem, page_size=page_size)
    inputs, extras = paged.make_inputs(0), random_extras(paged)
    assert extras.block_table is not None
    pools = inputs.k, inputs.v
    for pool in pools:  # what lies behind a sequence's last key is not seen
        for sequence, pages in zip(paged.sequences(), extras.block_table, strict=True):
            if sequence.seqlen_k % page_size:
                pool[pages[sequence.seqlen_k // page_size], :, sequence.seqlen_k % page_size :] = np.nan
    k, v = (np.zeros((*problem.k_shape[:3], pool.shape[3])) for pool in pools)
    for b, (row, _, first_key, _, seqlen_k) in enumerate(problem.sequences()):
        for j in range(seqlen_k):
            page, place = extras.block_table[b, j // page_size], j % page_size
            k[row, :, first_key + j], v[row, :, first_key + j] = (pool[page, :, place] for pool in pools)
    expected = answers(problem, inputs._replace(k=k, v=v), extras)
    assert_same(answers(paged, inputs, extras), expected, 0.0)


def test_keys_in_pages_have_no_gradients() -> None:
    problem = AttentionProblem.of(2, page_size=1, head_dim=2)
    q, k, v, do = problem.make_inputs(0)
    with pytest.raises(AttentionError, match="keys in pages"):
        attention_backward_reference(problem, do, q, k, v, make_extras(problem))


@given(problem=problems(), rows=st.integers(1, 9))
def test_blocks_of_rows_do_not_change_the_answer(problem: AttentionProblem, rows: int) -> None:
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    whole = answers(problem, inputs, extras)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "ROWS_PER_BLOCK", rows)
        assert_same(answers(problem, inputs, extras), whole, 1e-13)


@given(problem=problems(), data=st.data())
def test_a_head_group_is_checked_alone(problem: AttentionProblem, data: st.DataObject) -> None:
    """Dropout, slopes, masks, lengths and pages belong to the part's place in the whole."""
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    whole = answers(problem, inputs, extras)
    batch = data.draw(st.integers(0, problem.batch - 1))
    kv_head = data.draw(st.integers(0, problem.num_kv_heads - 1))
    part = head_group(problem, batch, kv_head)
    parts = Inputs(*(x[part.keys if name in "kv" else part.queries] for name, x in inputs._asdict().items()))
    found = answers(part.problem, parts, extras, origin=part.origin)
    for name in found.keys() - {"dsinks", "dmask"}:
        expected = whole[name][part.keys if name in ("dk", "dv") else part.queries]
        assert_close(found[name], expected, 0.0)
    if problem.sinks and problem.batch == 1 and problem.page_size is None:
        assert_close(found["dsinks"], whole["dsinks"][part.queries[1]], 0.0)
    if "dmask" in found and {"b", "h"} <= set(problem.mask_axes):
        assert_close(found["dmask"], whole["dmask"][batch : batch + 1, part.queries[1]], 0.0)


# Hidden rows and keys.


@given(problem=WITH_GRADIENTS)
def test_what_nobody_sees_is_zero(problem: AttentionProblem) -> None:
    """Rows without a visible key, keys that no row sees, and rows beyond the lengths."""
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    found = answers(problem, inputs, extras)
    seen = {name: np.zeros(found[name].shape[:3], dtype=bool) for name in ("dq", "dk")}
    for b, (row, first_q, first_k, seqlen_q, seqlen_k) in enumerate(problem.sequences()):
        for h in range(problem.num_heads):
            visible = visible_pairs(problem, extras, b, h)
            kv = h // (problem.num_heads // problem.num_kv_heads)
            seen["dq"][row, h, first_q : first_q + seqlen_q] = visible.any(axis=1)
            seen["dk"][row, kv, first_k : first_k + seqlen_k] |= visible.any(axis=0)
    sink = -np.inf if extras.sinks is None else extras.sinks[np.newaxis, :, np.newaxis]
    empty = ~seen["dq"]
    assert not found["o"][empty].any()
    assert np.array_equal(found["lse"][empty], np.broadcast_to(sink, empty.shape)[empty])
    assert np.isfinite(found["lse"][~empty]).all()
    assert not found["dq"][empty].any()
    assert not found["dk"][~seen["dk"]].any()
    assert not found["dv"][~seen["dk"]].any()


@given(
    problem=WITH_GRADIENTS,
    name=st.sampled_from(["q", "k", "v", "do"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 99),
)
def test_what_is_not_finite_reaches_just_what_sees_it(
    problem: AttentionProblem, name: str, value: float, seed: int
) -> None:
    """Spoil one row of one input. Results of rows that do not see it must not change. Nor must the gradients
    of keys that are seen only by such rows.
    """
    inputs, extras = problem.make_inputs(0), random_extras(problem)
    clean = answers(problem, inputs, extras)
    rng = np.random.default_rng(seed)
    x = getattr(inputs, name)
    assume(x.size)
    spoiled = tuple(int(rng.integers(size)) for size in x.shape[:3])
    x[spoiled] = value
    found = answers(problem, inputs, extras)

    group = problem.num_heads // problem.num_kv_heads
    rows = np.zeros(clean["lse"].shape, dtype=bool)  # rows that it may reach: they see it, or are it
    keys = np.zeros(clean["dk"].shape[:3], dtype=bool)
    for b, (row, first_q, first_k, seqlen_q, seqlen_k) in enumerate(problem.sequences()):
        for h in range(problem.num_heads):
            visible = visible_pairs(problem, extras, b, h)
            if name in ("k", "v"):
                place = spoiled[2] - first_k
                hit = spoiled[:2] == (row, h // group) and 0 <= place < seqlen_k
                reached = visible[:, place] if hit else np.zeros(seqlen_q, dtype=bool)
            else:
                place = spoiled[2] - first_q
                hit = spoiled[:2] == (row, h) and 0 <= place < seqlen_q
                reached = (np.arange(seqlen_q) == place) & visible.any(axis=1) & hit
            rows[row, h, first_q : first_q + seqlen_q] |= reached
            keys[row, h // group, first_k : first_k + seqlen_k] |= visible[reached].any(axis=0)
    for output, reached in (("o", rows), ("lse", rows), ("dq", rows), ("dk", keys), ("dv", keys)):
        assert_close(found[output][~reached], clean[output][~reached], 1e-12)
    if np.isnan(value):
        if name in ("q", "k"):
            assert np.isnan(found["lse"][rows]).all()
        if name != "do":
            assert np.isnan(found["o"][rows]).any(axis=-1).all()
        assert np.isnan(found["dq"][rows]).all()


# Logits that are not finite.


def test_an_infinite_logit_makes_its_row_nan_and_a_negative_one_has_no_weight() -> None:
    problem = AttentionProblem.of(3, head_dim=2, mask="float", mask_axes="qk", sinks=True)
    inputs = problem.make_inputs(0)
    mask = np.zeros((1, 1, 3, 3))
    mask[0, 0, 1, 2], mask[0, 0, 2, 0] = np.inf, -np.inf
    found = answers(problem, inputs, Extras(mask=mask, sinks=np.zeros(1)))
    assert [bool(np.isnan(found[name][0, 0, i]).all()) for name in ("o", "lse") for i in range(3)] == [
        *(False, True, False),
        *(False, True, False),
    ]
    without = answers(
        replaced(problem, mask="bool"), inputs, Extras(mask=~np.isneginf(mask), sinks=np.zeros(1))
    )
    assert_close(found["o"][:, :, 2], without["o"][:, :, 2], 1e-15)


@pytest.mark.parametrize("name", ["q", "v"])
def test_what_dropout_drops_is_multiplied_by_zero_and_still_seen(name: str) -> None:
    """A NaN p stays NaN, dropped or not, just as a p of 0 times a NaN value is NaN."""
    problem = AttentionProblem.of(1, seqlen_k=40, head_dim=2, dropout=0.5)
    kept = dropout_kept(problem, 0, 0, np.arange(1), np.arange(40))[0]
    inputs = problem.make_inputs(0)
    place = int(np.flatnonzero(~kept)[0])
    getattr(inputs, name)[0, 0, 0 if name == "q" else place] = np.nan
    found = answers(problem, inputs)
    assert np.isnan(found["o"]).all()
    assert np.isnan(found["dq"]).all()
    assert np.isnan(found["dk"]).all()
    if name == "q":
        assert np.isnan(found["dv"]).all()
    else:
        assert np.flatnonzero(found["dv"][0, 0, :, 0]).tolist() == np.flatnonzero(kept).tolist()


@pytest.mark.parametrize("name", ["q", "k", "v", "do"])
def test_nan_and_dropout_are_pytorchs_product_with_a_mask_of_zeros(name: str) -> None:
    torch = pytest.importorskip("torch")
    problem = AttentionProblem.of(9, num_heads=1, head_dim=3, dropout=0.7)
    inputs = problem.make_inputs(0)
    getattr(inputs, name)[0, 0, 2, 1] = np.nan
    kept = torch.tensor(dropout_kept(problem, 0, 0, np.arange(9), np.arange(9)))
    q, k, v = (torch.tensor(x, requires_grad=True) for x in inputs[:3])
    o = (torch.softmax(problem.scale * q @ k.mT, dim=-1) * kept / 0.3) @ v
    gradients = torch.autograd.grad(o, (q, k, v), torch.tensor(inputs.do))
    found = answers(problem, inputs)
    assert_close(found["o"], o.detach().numpy(), 1e-13)
    for output, gradient in zip(("dq", "dk", "dv"), gradients, strict=True):
        assert_close(found[output], gradient.numpy(), 1e-13)


@pytest.mark.parametrize("causal", [False, True])
def test_rows_of_minus_infinite_logits_are_zero_as_in_pytorch(causal: bool) -> None:
    """Gradients are zero too, except 0 times infinity, which PyTorch lets through a causal mask."""
    torch = pytest.importorskip("torch")
    problem = AttentionProblem.of(9, batch=2, num_heads=2, head_dim=3, causal=causal)
    inputs = problem.make_inputs(0)
    inputs.k[..., 1] = np.abs(inputs.k[..., 1]) + 0.1
    inputs.q[:, :, 3:6, 1] = -np.inf
    found = answers(problem, inputs)
    q, k, v = (torch.tensor(x, requires_grad=True) for x in inputs[:3])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    expected = torch.autograd.grad(o, (q, k, v), torch.tensor(inputs.do))
    assert not found["o"][:, :, 3:6].any()
    assert np.isneginf(found["lse"][:, :, 3:6]).all()
    assert_close(found["o"], o.detach().numpy(), 1e-13)
    if not causal:
        for name, gradient in zip(("dq", "dk", "dv"), expected, strict=True):
            assert_close(found[name], gradient.numpy(), 1e-13)


def test_softcap_bounds_what_overflows() -> None:
    problem = AttentionProblem.of(2, head_dim=1, softmax_scale=1.0, softcap=3.0)
    q, k, v = np.array([[[[1e200], [-1e200]]]]), np.array([[[[1e200], [0.0]]]]), np.array([[[[1.0], [0.0]]]])
    o, lse = attention_reference(problem, q, k, v)
    assert_close(o[0, 0, :, 0], 1 / (1 + np.exp([-3.0, 3.0])), 1e-15)
    assert_close(lse[0, 0], np.logaddexp([3.0, -3.0], 0.0), 1e-15)


def test_a_sink_is_a_key_whose_value_is_zero() -> None:
    problem = AttentionProblem.of(4, batch=2, num_heads=2, head_dim=3, softmax_scale=1.0, sinks=True)
    q, k, v, do = problem.make_inputs(0)
    sinks = np.array([0.3, -2.0])
    # One more dimension makes the extra key's logit: it is 1 in q, and the sink in the extra key.
    q_long = np.concatenate([q, np.ones((2, 2, 4, 1))], axis=3)
    k_long, v_long = np.zeros((2, 2, 5, 4)), np.zeros((2, 2, 5, 3))
    k_long[:, :, :4, :3], k_long[:, :, 4, 3] = k, sinks
    v_long[:, :, :4] = v
    longer = AttentionProblem.of(
        4, seqlen_k=5, batch=2, num_heads=2, head_dim=4, head_dim_v=3, softmax_scale=1.0
    )
    expected = answers(longer, Inputs(q_long, k_long, v_long, do))
    found = answers(problem, Inputs(q, k, v, do), Extras(sinks=sinks))
    assert_same({"o": found["o"], "lse": found["lse"]}, expected)
    assert_close(found["dq"], expected["dq"][..., :3], 1e-14)
    assert_close(found["dk"], expected["dk"][:, :, :4, :3], 1e-14)
    assert_close(found["dv"], expected["dv"][:, :, :4], 1e-14)
    assert_close(found["dsinks"], expected["dk"][:, :, 4, 3].sum(axis=0), 1e-14)
