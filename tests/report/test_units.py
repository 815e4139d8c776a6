"""Bytes, times and ratios read as the documentation writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.errors import ConfigError
from flashbench.report.units import (
    format_bytes,
    format_change,
    format_error,
    format_ratio,
    format_times,
    parse_bytes,
)

KIB = 1024


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (128 * KIB, "128.00 KiB"),
        (2 * KIB**2, "2.00 MiB"),
        (KIB**2 - 1, "1.00 MiB"),
        (4 * KIB**3, "4.00 GiB"),
        (5000 * KIB**6, "5000.00 EiB"),
    ],
)
def test_bytes_have_the_documented_form(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(count=st.integers(1, 2**55))
def test_no_size_is_printed_as_1024_of_its_unit(count: int) -> None:
    assert "1024" not in format_bytes(count).split(".")[0] or count >= KIB**5


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        ("16GiB", 16 * KIB**3),
        ("16GB", 16 * KIB**3),
        ("16 g", 16 * KIB**3),
        ("512MiB", 512 * KIB**2),
        ("1.5k", 1536),
        (".5KB", 512),
        ("128.00 KB", 128 * KIB),
        ("100B", 100),
    ],
)
def test_a_size_is_read_in_every_spelling(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "16 bananas", "1e9", "0", "0.1", "GiB", "16GiBs"])
def test_a_size_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bytes(text, name="--memory-budget")
    assert str(caught.value) == f"--memory-budget must be a size such as 16GiB, 512MiB or 4096, not {text!r}"


def test_times_of_one_column_share_their_decimals() -> None:
    assert format_times([1_230_000.0, 45_120_000.0]) == ["1.23", "45.12"]
    assert format_times([31_000.0, 1_230_000.0]) == ["0.031", "1.230"]
    assert format_times([1_500.0]) == ["0.0015"]
    assert format_times([]) == []


def test_ratios_changes_and_errors_read_calmly() -> None:
    assert [format_ratio(value) for value in (0.5, 16, 999.9, 999.96, 5000)] == [
        "0.5x",
        "16.0x",
        "999.9x",
        "1000x",
        "5000x",
    ]
    assert [format_change(value) for value in (1.0, 1.0994, 1.0996, 0.5)] == [
        "+0.0%",
        "+9.9%",
        "+10%",
        "-50%",
    ]
    assert [format_error(value) for value in (0.0, 4.44e-16, None)] == ["0", "4.4e-16", "not finite"]
