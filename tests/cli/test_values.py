"""Any text after an option is either a value, or a one-line error that names the option."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.cli.values import (
    or_none,
    parse_above_zero,
    parse_block_sizes,
    parse_choices,
    parse_lengths,
    parse_link,
    parse_seconds,
    parse_seed,
    parse_share,
    parse_short_time,
    parse_whole,
    parse_wholes,
    parse_window,
)
from flashbench.errors import ConfigError
from flashbench.report.units import parse_bytes

TYPED = st.one_of(st.text(), st.from_regex(r"[-+.,0-9kKeE% _]{0,12}", fullmatch=True))
PARSERS: list[Callable[[str, str], object]] = [
    parse_whole,
    parse_wholes,
    parse_block_sizes,
    parse_seed,
    parse_seconds,
    parse_share,
    parse_above_zero,
    parse_window,
    parse_lengths,
    parse_link,
    parse_short_time,
    lambda option, text: parse_choices(option, text, {"one": 1, "two": 2}),
    lambda option, text: parse_bytes(text, name=option),
]


@pytest.mark.parametrize("parse", PARSERS)
@given(text=TYPED)
def test_anything_typed_is_a_value_or_a_named_error(parse: Callable[[str, str], object], text: str) -> None:
    try:
        value = parse("--option", text)
    except ConfigError as error:
        message = str(error)
    else:
        message = None
        assert value is not None
    assert message is None or message.startswith("--option ")


@given(numbers=st.lists(st.integers(1, 10**11), min_size=1))
def test_a_list_reads_back(numbers: list[int]) -> None:
    assert parse_wholes("--option", ",".join(map(str, numbers))) == numbers


def test_a_k_is_1024_and_auto_stays_a_word() -> None:
    assert parse_block_sizes("--option", "auto, 1k,3") == ["auto", 1024, 3]


@given(lengths=st.one_of(st.lists(st.integers(0, 10**9), min_size=1), st.lists(st.floats(0, 1), min_size=1)))
def test_lengths_read_back_as_rows_or_as_shares(lengths: list[float]) -> None:
    text = ",".join(f"{length:.9f}" if isinstance(length, float) else str(length) for length in lengths)
    found = parse_lengths("--option", text)
    assert {type(length) for length in found} == {type(length) for length in lengths}
    assert found == pytest.approx(lengths, abs=1e-9)


def test_none_is_one_value_more() -> None:
    assert or_none(parse_whole)("--option", " none ") is None
    assert or_none(parse_whole)("--option", "4k") == 4096
    with pytest.raises(ConfigError, match="--option takes whole numbers"):
        or_none(parse_whole)("--option", "nine")


def test_choices_may_be_one_word_only() -> None:
    assert parse_choices("--option", "one,two", {"one": 1, "two": 2}) == [1, 2]
    with pytest.raises(ConfigError, match="--option takes one or two, not 'one,two'"):
        parse_choices("--option", "one,two", {"one": 1, "two": 2}, many=False)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25GB/s", 25e9),
        ("25 GB/s", 25e9),
        ("100Gb/s", 12.5e9),
        ("100Gbit/s", 12.5e9),
        ("12.5GiB/s", 12.5 * 1024**3),
        ("1TB/s", 1e12),
        ("8b/s", 1.0),
        (".5kB/s", 500.0),
    ],
)
def test_a_link_is_in_bytes_or_in_bits(text: str, rate: float) -> None:
    assert parse_link("--link", text) == rate


@pytest.mark.parametrize("text", ["25", "25GB", "GB/s", "0GB/s", "-1GB/s", "25gB", "25Gx/s", "1eGB/s"])
def test_a_link_without_its_unit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--link takes bytes or bits a second, such as 25GB/s"):
        parse_link("--link", text)


def test_a_short_time_has_a_unit_unless_it_is_0() -> None:
    found = [parse_short_time("--latency", text) for text in ("300us", "0.5 ms", "2s", "0", "0ms")]
    assert found == pytest.approx([3e-4, 5e-4, 2.0, 0.0, 0.0])
    with pytest.raises(ConfigError, match="--latency takes a time with its unit"):
        parse_short_time("--latency", "1")


def test_an_m_is_1024_times_a_k() -> None:
    assert parse_wholes("--option", "16M,1m,1024k") == [16 * 1024**2, 1024**2, 1024**2]
