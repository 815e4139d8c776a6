"""Ratios, Amdahl's bound, the longest context and the agreement of losses, against hand calculations."""

from __future__ import annotations

import math

import msgspec
import pytest
from helpers.fake_training import make_step
from hypothesis import given
from hypothesis import strategies as st

from flashbench.analysis.training import longest_context
from flashbench.analysis.whole_models import amdahl_bound, base_of, measured_ratio
from flashbench.studies.train.agreement import disagreement


def test_ratios_and_bound_of_hand_made_times() -> None:
    """Standard: 80 ms of attention in 100 ms; flash: 20 ms of it in 40 ms."""
    standard, flash = make_step("standard", 1024), make_step("flash", 1024)
    assert measured_ratio(flash, standard) == pytest.approx(2.5)
    # f = 0.8, s = 4: 1 / (0.2 + 0.2). Only attention differs, so the measured ratio equals the bound.
    assert amdahl_bound(flash, standard) == pytest.approx(2.5)
    assert amdahl_bound(standard, standard) == pytest.approx(1.0)


@given(st.floats(0.01, 0.99), st.floats(0.1, 100))
def test_the_bound_is_between_one_and_what_attention_gains(share: float, faster: float) -> None:
    base = make_step("standard", 1024, attention_share=share)
    spent = base.attention_forward_ns + base.attention_backward_ns
    row = make_step("flash", 1024, attention_forward_ns=spent / faster, attention_backward_ns=0.0)
    bound = amdahl_bound(row, base)
    low, high = sorted((1.0, faster))
    assert low * (1 - 1e-9) <= bound <= high * (1 + 1e-9)
    assert bound <= 1 / (1 - share) * (1 + 1e-9)


def test_no_base_or_no_marks_is_no_figure() -> None:
    row = make_step("flash", 1024)
    assert measured_ratio(row, None) is None
    assert amdahl_bound(row, None) is None
    assert measured_ratio(msgspec.structs.replace(row, time=None), row) is None
    unmarked = msgspec.structs.replace(row, attention_share=None, attention_forward_ns=None)
    assert amdahl_bound(unmarked, row) is None
    assert amdahl_bound(row, unmarked) is None


def test_the_base_is_of_the_same_model_and_length() -> None:
    row = make_step("flash", 1024)
    others = [make_step("standard", 512), make_step("standard", 1024, model="TFT")]
    assert base_of(row, others) is None
    mine = make_step("standard", 1024)
    assert base_of(row, [*others, mine]) is mine
    assert base_of(row, [*others, mine], "torch-flash") is None


@given(
    st.integers(0, 10**6),
    st.integers(500, 10**4),
    st.sampled_from([0, 1, 8, 64]),
    st.sampled_from([0, 4]),
    st.integers(10**3, 10**5),
)
def test_longest_context_of_a_known_polynomial(a: int, b: int, c: int, mask: int, length: int) -> None:
    """The budget is exactly what `length` needs on top of what a model keeps, so `length` is the longest."""

    def peak(n: int) -> int:
        return a + b * n + c * n * n

    def buffers(n: int) -> int:
        return 100 + mask * (n + 24) ** 2

    rows = [
        make_step("flash", n, peak_bytes=peak(n), parameters=1000, buffer_bytes=buffers(n))
        for n in (512, 1024, 2048, 4096)
    ]
    found = longest_context(rows, peak(length) + buffers(length) + 1000 * (4 + 4 + 8))
    assert found.length == pytest.approx(length, rel=1e-2, abs=1)
    assert found.measured == [512, 1024, 2048, 4096]


def test_two_peaks_tell_a_longest_context_and_one_does_not() -> None:
    rows = [make_step("flash", n, peak_bytes=3 * n + 2 * n * n, parameters=0) for n in (512, 1024)]
    assert longest_context(rows[:1], 1 << 30) is None
    assert longest_context(rows, 3 * 9000 + 2 * 9000**2).length == pytest.approx(9000, abs=1)


@pytest.mark.parametrize(
    "peaks",
    [(51_691_704, 117_117_784, 235_623_256), (34_353_200, 70_015_224, 139_018_488), (1e8, 2e8, 4.1e8)],
)
def test_a_bend_of_measured_peaks_is_not_taken_for_a_square(peaks: tuple[float, ...]) -> None:
    """A square term from such a bend would be most of the memory at a hundred times the length."""
    rows = [
        make_step("flash", n, peak_bytes=int(peak)) for n, peak in zip((512, 1024, 2048), peaks, strict=True)
    ]
    longest = longest_context(rows, 24 << 30).length
    assert longest == pytest.approx((24 << 30) / (peaks[-1] / 2048), rel=0.05)


def test_no_longest_context_where_memory_does_not_come_from_it() -> None:
    flat = [make_step("flash", n, peak_bytes=1000) for n in (512, 1024, 2048)]
    assert longest_context(flat, 1 << 30) is None
    series = zip((512, 1024, 2048), (365_388_272, 379_600_032, 438_320_288), strict=True)
    assert longest_context([make_step("flash", n, peak_bytes=peak) for n, peak in series], 1 << 30) is None
    grown = [make_step("standard", n) for n in (512, 1024, 2048)]
    assert longest_context(grown, 1).length == 0


def test_a_model_may_take_less_than_fits() -> None:
    rows = [
        make_step("flash", n, model="Informer (full attention)", peak_bytes=1000 * n, parameters=0)
        for n in (512, 1024, 2048)
    ]
    assert longest_context(rows, 10**9).length == 5000
    assert longest_context(rows, 4_000_000).length == pytest.approx(4000, rel=0.01)


def test_losses_agree_within_rounding() -> None:
    assert disagreement([1.0, 0.9, 0.8], [1.0, 0.9, 0.8]) is None
    assert disagreement([1.000001, 0.9005], [1.0, 0.9]) is None


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([1.0001, 0.9], "loss 1.0001 before any step, 1 in the arm"),
        ([1.0, 0.92], "loss 0.92 after 1 step, 0.9 in the arm"),
        ([1.0, math.nan], "loss nan after 1 step"),
    ],
)
def test_other_losses_are_told(losses: list[float], words: str) -> None:
    assert words in disagreement(losses, [1.0, 0.9])
