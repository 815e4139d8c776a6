"""The named cases: they cover what they should, names are stable, and words choose among them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from flashbench.block_mask import BlockMask
from flashbench.dtypes import DTYPES, NARROWEST_FIRST, accumulator_of
from flashbench.errors import ConfigError
from flashbench.philox import dropout_kept
from flashbench.problem import Feature
from flashbench.reference import attention_reference
from flashbench.studies.cases import SUITES, all_cases, choose_cases, sample_cases, unweighted
from flashbench.studies.cases.case import Case
from flashbench.studies.question import Question

CASES = all_cases()
NAMES = {case.name for case in CASES}


def test_every_case_has_a_name_of_its_own_that_a_shell_leaves_alone() -> None:
    assert len(NAMES) == len(CASES)
    assert all(re.fullmatch(r"[a-z0-9.-]+-(b?float16|float32|float64)", name) for name in NAMES)


@pytest.mark.parametrize("dtype", NARROWEST_FIRST)
@pytest.mark.parametrize("length", [1, 2, 5, 17, 64, 113, 128, 203, 256, 1023, 1024])
def test_every_promised_length_is_there_full_and_causal(length: int, dtype: str) -> None:
    assert {f"square-{length}-{dtype}", f"square-{length}-causal-{dtype}"} <= NAMES


@pytest.mark.parametrize(
    "name",
    [
        "len113x203-bottom-right",
        "len203x113-top-left",
        "gqa-8-2-len113x203-bottom-right",
        "gqa-8-1-len113x203",
        "blocks-17x5",
        "blocks-1x1",
        "blocks-256x256",
        "head-dim-255",
        "head-dim-17-v-33",
        "logits-x30",
        "inputs-x100-causal",
        "huge-v",
        "tiny-inputs",
        "unseeing-203x113",
        "nan-in-k-causal",
        "inf-in-v-causal",
        "layout-every-other",
        "window-0-0-len130x130",
        "window-any-7-len113x140-top-left-blocks-16x32",
        "mask-bool-bhqk",
        "mask-float-k-causal-blocks-16x32",
        "mask-block-documents",
        "alibi-len101x67-bottom-right",
        "softcap-0.1",
        "softcap-10000",
        "sinks-minus-inf-len70x1-blocks-16x16",
        "key-lengths-all-zero",
        "packed-five-bottom-right",
        "dropout-0.9-top-left",
        "pair-window-packed-blocks-16x16",
        "all-block-packed-causal",
        "nan-in-hidden-keys-mask-float",
        "inf-in-k-window",
        "nan-in-page-tails",
        "decode-16-paged-64-everything",
    ],
)
def test_names_that_others_may_refer_to_last(name: str) -> None:
    assert {f"{name}-{dtype}" for dtype in NARROWEST_FIRST} <= NAMES


def test_inputs_are_the_same_each_time() -> None:
    for case in CASES:
        for first, second in zip(case.make_inputs(), case.make_inputs(), strict=True):
            assert np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
            assert first.dtype == DTYPES[case.problem.dtype].storage


def test_inputs_have_the_shapes_of_the_problem() -> None:
    for case in CASES:
        plain = case.problem.make_inputs()
        assert [x.shape for x in case.make_inputs()] == [x.shape for x in plain]


def test_extras_are_the_same_each_time_and_what_the_problem_has() -> None:
    for case in CASES:
        problem, first, second = case.problem, case.make_extras(), case.make_extras()
        full = (problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
        number = accumulator_of(problem.dtype).storage
        assert Question(case).restore() is None
        if isinstance(first.mask, BlockMask):
            assert (first.mask.block_q, first.mask.block_k) == (problem.mask_block_q, problem.mask_block_k)
            assert np.array_equal(first.mask.dense(), second.mask.dense())
            assert np.broadcast_to(first.mask.dense(), full).shape == full
        elif problem.mask is not None:
            assert first.mask.shape == full
            assert first.mask.dtype == ("bool" if problem.mask == "bool" else number)
            broadcast = [axis for axis, stride in zip("bhqk", first.mask.strides, strict=True) if not stride]
            assert set(broadcast).isdisjoint(problem.mask_axes)
        else:
            assert first.mask is None
        for array, shape, is_on in (
            (first.alibi_slopes, full[:2], problem.alibi),
            (first.sinks, full[1:2], problem.sinks),
        ):
            assert (array is not None) == is_on
            if array is not None:
                assert (array.shape, array.dtype) == (shape, number)


def test_only_containment_cases_hold_nan_or_infinity() -> None:
    for case in CASES:
        inputs, (mask, slopes, sinks, _) = numbers_of(case), case.make_extras()
        floats = [x for x in (mask, slopes, sinks) if isinstance(x, np.ndarray)]
        # Minus infinity hides: in a mask a pair, in a sink that sink.
        arrays = [*inputs, *(np.where(x == -np.inf, 0, x) for x in floats)]
        finite = all(np.isfinite(x).all() for x in arrays)
        assert finite == (case.group not in ("NaN and infinity", "NaN with features", unweighted.GROUP))
        assert case.infinite <= any(np.isinf(x).any() for x in arrays)


FEATURES = ["causal", "window", "bool", "float", "block", "alibi", "softcap", "sinks", "dropout"]
FEATURES += ["key-lengths", "packed"]
NAMED: dict[str, Feature] = {"key-lengths": "key_lengths", "packed": "varlen"}
MASKS, LENGTHS = {"bool", "float", "block"}, {"key-lengths", "packed"}


@pytest.mark.parametrize("one", FEATURES)
@pytest.mark.parametrize("other", FEATURES)
def test_every_two_features_that_go_together_are_tried_together(one: str, other: str) -> None:
    if one == other or {one, other} <= MASKS or {one, other} <= LENGTHS:
        return
    name = next(f"pair-{a}-{b}" for a, b in ((one, other), (other, one)) if f"pair-{a}-{b}-float32" in NAMES)
    for case in choose_cases([name]):
        wanted: set[str] = set()
        for feature in (one, other):
            assert feature not in MASKS or case.problem.mask == feature
            assert feature != "causal" or case.problem.causal
            wanted.add("mask" if feature in MASKS else NAMED.get(feature, feature))
        assert case.problem.features == wanted - {"causal"}
        assert case.problem.num_heads > case.problem.num_kv_heads
        assert case.problem.head_dim != case.problem.head_dim_v


def test_each_feature_is_tried_where_rows_see_no_key() -> None:
    unseeing: dict[str, int] = {}
    for case in CASES:
        if case.problem.dtype == "float64" and case.problem.features and "NaN" not in case.group:
            lse = Question(case._replace(backward=False)).answers["lse"]
            for feature in case.problem.features:
                blind = np.isneginf(lse) if feature != "sinks" else lse == case.make_extras().sinks[:, None]
                unseeing[feature] = unseeing.get(feature, 0) + int(blind.any())
    assert all(unseeing.values())
    assert set(unseeing) == {
        *("window", "softcap", "alibi", "sinks", "mask", "key_lengths", "varlen", "dropout", "block_table"),
    }


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_hidden_reaches_nothing_and_what_is_visible_something_but_not_all(value: str) -> None:
    hidden = choose_cases([f"{value}-in-{what}" for what in ("hidden-keys", "hidden-queries", "padding")])
    for case in hidden:
        answers = Question(case).answers
        assert all(np.isfinite(answers[name]).all() for name in ("o", "dq", "dk", "dv")), case.name
    features = ("window", "alibi", "softcap", "sinks", "dropout", "key-lengths", "packed", "mask")
    visible = choose_cases([f"{value}-in-v-{feature}" for feature in features])
    for case in visible:
        rows = np.isfinite(Question(case).answers["o"]).all(axis=3)
        assert not rows[0, 2:].all(), case.name
        assert rows[0, :2].all(), case.name  # heads that do not share that value
        assert rows[0, 2:].any() or case.problem.features <= {"key_lengths"}, case.name


def test_rows_see_keys_and_have_weight_on_none() -> None:
    for case in CASES:
        if (
            not case.name.startswith("minus-inf-logits-of-rows")
            or "scalar" in case.name
            or "blocks" in case.name
        ):
            continue
        inputs, extras = case.make_inputs(), case.make_extras()
        o, lse = attention_reference(case.problem, *inputs[:3], extras)
        rows = np.isneginf(numbers_of(case)[0]).any(axis=-1)
        assert rows.any()
        none = extras.sinks[:, np.newaxis] if case.problem.sinks else -np.inf
        assert (lse[rows] == np.broadcast_to(none, lse.shape[1:])[np.nonzero(rows)[1:]]).all()
        assert not o[rows].any()


def test_a_nan_that_is_dropped_is_some_rows_only_key_or_one_of_many() -> None:
    alone = [
        case for case in CASES if case.name.startswith("dropped-nan-in-first-k-causal") and is_plain(case)
    ]
    for case in alone:
        assert not dropout_kept(case.problem, 0, 2, np.arange(1), np.arange(1)).all()
        o, _ = attention_reference(case.problem, *case.make_inputs()[:3])
        assert np.isnan(o[0, 2, 0]).all()
    assert len(alone) == len(NARROWEST_FIRST)


def test_the_grid_of_flash_attention_is_all_there() -> None:
    every = all_cases("flash-attention")
    cases = [case for case in every if not case.group.startswith("long")]
    problems = [case.problem for case in cases]
    head_dims = {32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256}
    assert {problem.head_dim for problem in problems} == head_dims
    lengths = {(problem.seqlen_q, problem.seqlen_k) for problem in problems}
    assert lengths == {
        *((113, 203), (128, 217), (113, 211), (108, 256)),
        *((256, 512), (512, 256), (1023, 1024), (1024, 1023)),
    }
    heads = {(problem.num_heads, problem.num_kv_heads) for problem in problems}
    assert {"mha" if q == kv else "mqa" if kv == 1 else "gqa" for q, kv in heads} == {"mha", "mqa", "gqa"}
    switches = {
        (p.causal, p.window_left is not None, p.alibi, p.softcap is not None, p.dropout > 0) for p in problems
    }
    assert len(switches) == 2**5
    assert len({case.name for case in cases}) == len(cases) == 4 * 12 * 8 * 3 * 2**5


def test_flash_attention_in_16_bits_has_long_sequences_of_inputs_of_any_size() -> None:
    long = [case for case in all_cases("flash-attention") if case.group.startswith("long")]
    assert {(case.problem.dtype, case.problem.seqlen_q, case.sizes.q) for case in long} == {
        (dtype, length, factor)
        for dtype in ("float16", "bfloat16")
        for length in (2048, 4096, 8192)
        for factor in (1.0, 5.0, 100.0)
    }
    features = [case.problem.features for case in long if case.problem.seqlen_q == 2048]
    for feature in ("softcap", "sinks", "window", "dropout"):
        assert sum(feature in of_case for of_case in features) == 2 * 2 * 3
    assert sum(case.problem.causal for case in long) == len(long) / 2
    assert len(long) == 2 * 2 * 3 * (3 + 4)


def test_the_grid_of_torch_is_all_there_on_views_of_one_projection() -> None:
    cases = all_cases("torch")
    shapes = {(p.batch, p.seqlen_q, p.num_heads, p.head_dim, p.causal) for p in (c.problem for c in cases)}
    assert len(shapes) == 2 * 2 * 2 * 2 * 2
    assert len(cases) == 2 * 4 * len(shapes)  # train and inference, in four dtypes
    assert sum(case.backward for case in cases) == len(cases) // 2
    for case in cases[:: len(cases) // 4]:
        q, k, v, _ = case.make_inputs()
        plain = case.problem.make_inputs(seed=1)
        assert all(np.array_equal(x, y) for x, y in zip((q, k, v), plain[:3], strict=True))
        assert q.base is k.base is v.base is not None


def test_the_docs_say_how_many_cases_there_are(repository: Path) -> None:
    assert f"{len(CASES)} named cases" in (repository / "README.md").read_text()
    documented = (repository / "docs" / "documented.md").read_text()
    assert f"`flashbench verify` holds {len(CASES)} cases to derived tolerances" in documented
    command_line = (repository / "docs" / "command-line.md").read_text()
    assert f"# of its {len(all_cases('flash-attention'))} cases, the same 500 each time" in command_line


@pytest.mark.parametrize("suite", SUITES)
def test_a_sample_is_the_same_each_time_and_another_with_another_seed(suite: str) -> None:
    cases = all_cases(suite)
    sample = sample_cases(cases, 50)
    assert names(sample) == names(sample_cases(cases, 50))
    assert names(sample) == [case.name for case in cases if case.name in set(names(sample))]
    assert len(set(names(sample))) == 50
    assert names(sample) != names(sample_cases(cases, 50, seed=1))
    assert set(names(sample_cases(cases, 20))) < set(names(sample))
    assert names(sample_cases(cases, 10**6)) == names(cases)


def test_a_sample_hardly_changes_when_cases_are_added() -> None:
    before, after = sample_cases(CASES[:1000], 100), sample_cases(CASES[:1010], 100)
    assert len(set(names(before)) & set(names(after))) >= 90


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown suite 'jax'; known: default, flash-attention, torch"):
        all_cases("jax")
    with pytest.raises(ConfigError, match="no case is named 'square-1'"):
        choose_cases(["square-1"], "torch")


def test_layouts_are_what_they_say() -> None:
    for dtype, entry in DTYPES.items():
        (case,) = choose_cases([f"layout-transposed-{dtype}"])
        assert case.make_inputs().q.strides[3] != entry.itemsize
        (case,) = choose_cases([f"layout-one-row-repeated-{dtype}"])
        assert case.make_inputs().k.strides[2] == 0
        (case,) = choose_cases([f"layout-read-only-{dtype}"])
        assert not case.make_inputs().v.flags.writeable


def numbers_of(case: Case) -> list[np.ndarray]:
    return [DTYPES[case.problem.dtype].view(x) for x in case.make_inputs()]


def is_plain(case: Case) -> bool:
    """Whether neither its blocks nor its loops are set."""
    return "blocks" not in case.name and "scalar" not in case.name


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_no_word_chooses_all_cases() -> None:
    assert names(choose_cases([])) == names(CASES)


def test_a_name_chooses_just_itself() -> None:
    assert names(choose_cases(["square-1-float64"])) == ["square-1-float64"]


def test_a_name_without_its_dtype_chooses_all() -> None:
    assert names(choose_cases(["square-1"])) == [f"square-1-{dtype}" for dtype in NARROWEST_FIRST]


def test_any_other_word_is_a_prefix() -> None:
    assert names(choose_cases(["blocks-"])) == [name for name in names(CASES) if name.startswith("blocks-")]


def test_words_add_up_and_a_case_runs_once() -> None:
    assert names(choose_cases(["square-2", "square-1", "square-1-"])) == [
        f"{name}-{dtype}" for dtype in NARROWEST_FIRST for name in ("square-1", "square-1-causal", "square-2")
    ]


@pytest.mark.parametrize(
    ("word", "hint"), [("sqare-17", "did you mean 'square-17'?"), ("", "--list"), ("%", "--list")]
)
def test_a_word_that_names_nothing_is_refused(word: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no case is named {word!r} or begins so") as error:
        choose_cases(["square-1", word])
    assert hint in str(error.value.hint)
