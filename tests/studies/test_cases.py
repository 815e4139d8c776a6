"""The named cases: what is there, that names last, and how words choose among them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flashbench.errors import ConfigError
from flashbench.studies.cases import all_cases, choose_cases
from flashbench.studies.cases.case import Case

CASES = all_cases()
NAMES = {case.name for case in CASES}


def test_every_case_has_a_name_of_its_own_that_a_shell_leaves_alone() -> None:
    assert len(NAMES) == len(CASES)
    assert all(re.fullmatch(r"[a-z0-9.-]+-float(32|64)", name) for name in NAMES)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
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
    ],
)
def test_names_that_others_may_refer_to_last(name: str) -> None:
    assert {f"{name}-float32", f"{name}-float64"} <= NAMES


def test_inputs_are_the_same_each_time() -> None:
    for case in CASES:
        for first, second in zip(case.make_inputs(), case.make_inputs(), strict=True):
            assert np.array_equal(first, second, equal_nan=True)
            assert first.dtype == case.problem.dtype


def test_inputs_have_the_shapes_of_the_problem() -> None:
    for case in CASES:
        plain = case.problem.make_inputs()
        assert [x.shape for x in case.make_inputs()] == [x.shape for x in plain]


def test_only_containment_cases_hold_nan_or_infinity() -> None:
    for case in CASES:
        finite = all(np.isfinite(x).all() for x in case.make_inputs())
        assert finite == (case.group != "NaN and infinity")
        assert case.infinite <= any(np.isinf(x).any() for x in case.make_inputs())


def test_layouts_are_what_they_say() -> None:
    (case,) = choose_cases(["layout-transposed-float64"])
    assert case.make_inputs().q.strides[3] != 8
    (case,) = choose_cases(["layout-one-row-repeated-float64"])
    assert case.make_inputs().k.strides[2] == 0
    (case,) = choose_cases(["layout-read-only-float64"])
    assert not case.make_inputs().v.flags.writeable


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_no_word_chooses_all_cases() -> None:
    assert names(choose_cases([])) == names(CASES)


def test_a_name_chooses_just_itself() -> None:
    assert names(choose_cases(["square-1-float64"])) == ["square-1-float64"]


def test_a_name_without_its_dtype_chooses_both() -> None:
    assert names(choose_cases(["square-1"])) == ["square-1-float32", "square-1-float64"]


def test_any_other_word_is_a_prefix() -> None:
    assert names(choose_cases(["blocks-"])) == [name for name in names(CASES) if name.startswith("blocks-")]


def test_words_add_up_and_a_case_runs_once() -> None:
    assert names(choose_cases(["square-2", "square-1", "square-1-"])) == [
        *("square-1-float32", "square-1-causal-float32", "square-2-float32"),
        *("square-1-float64", "square-1-causal-float64", "square-2-float64"),
    ]


@pytest.mark.parametrize(
    ("word", "hint"), [("sqare-17", "did you mean 'square-17'?"), ("", "--list"), ("%", "--list")]
)
def test_a_word_that_names_nothing_is_refused(word: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no case is named {word!r} or begins so") as error:
        choose_cases(["square-1", word])
    assert hint in str(error.value.hint)
