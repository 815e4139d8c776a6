"""Bytes, times and ratios as text, and sizes from text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flashbench.analysis.sizes import with_unit
from flashbench.errors import ConfigError

# The documented table spells them so; they are powers of 1024 too.
_DOCUMENTED_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([KMGTP]?)(?:I?B)?\s*", re.IGNORECASE)


def format_bytes(count: int) -> str:
    """Bytes with two decimals in the largest unit that leaves at least 1; whole bytes below 1 KiB.

    >>> format_bytes(131072), format_bytes(512), format_bytes(4 * 1024**3)
    ('128.00 KiB', '512 B', '4.00 GiB')
    """
    return with_unit(count)


def brief_bytes(count: int) -> str:
    """`format_bytes` with one decimal, for narrow tables. It rounds what the wide table shows.

    >>> brief_bytes(131072), brief_bytes(512), brief_bytes(1024 * 1023)
    ('128.0 KiB', '512 B', '1023.0 KiB')
    """
    return with_unit(count, shown=1)


def documented_bytes(count: int) -> str:
    """`format_bytes` as the documented table spells it; only that table uses it.

    >>> documented_bytes(131072)
    '128.00 KB'
    """
    return with_unit(count, _DOCUMENTED_UNITS)


def parse_bytes(text: str, *, name: str = "size") -> int:
    """Bytes from `16GiB`, `16GB`, `1.5g` or `4096`. K, M, G and T are powers of 1024 in every spelling.

    Raises ConfigError, whose message begins with `name`.

    >>> parse_bytes("16GiB") == parse_bytes("16 gb") == 16 * 1024**3
    True
    """
    match = _SIZE.fullmatch(text)
    size = 0 if match is None else int(float(match[1]) * 1024 ** "BKMGTP".index(match[2].upper() or "B"))
    if size < 1:
        raise ConfigError(f"{name} must be a size such as 16GiB, 512MiB or 4096, not {text!r}")
    return size


def format_count(count: int) -> str:
    """A count with three digits and its thousands: `8.59G`. Below a thousand it is whole.

    >>> format_count(640), format_count(33_564_672), format_count(8_590_065_664), format_count(999_999)
    ('640', '33.6M', '8.59G', '1.00M')
    """
    value, units = float(count), ["", "K", "M", "G", "T", "P"]
    while float(f"{value:.3g}") >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:#.3g}".rstrip(".") + units[0] if units[0] else str(count)


def format_ratio(ratio: float) -> str:
    """A ratio as the documented `16.0x`; whole from 1000 up.

    >>> format_ratio(16), format_ratio(5041.23)
    ('16.0x', '5041x')
    """
    return f"{ratio:.1f}x" if ratio < 999.95 else f"{ratio:.0f}x"


def format_times(times_ns: list[float]) -> list[str]:
    """Milliseconds of one column. All have as many decimals as the smallest needs for two digits.

    >>> format_times([1_230_000.0, 120_450_000.0]), format_times([43_210.0, 1_230_000.0])
    (['1.23', '120.45'], ['0.043', '1.230'])
    """
    smallest = min((time for time in times_ns if time > 0), default=1e6) / 1e6
    decimals = 2 if smallest >= 0.1 else 3 if smallest >= 0.01 else 4
    return [f"{time / 1e6:.{decimals}f}" for time in times_ns]


def format_known_times(times_ns: Sequence[float | None]) -> list[str]:
    """`format_times` of those that are known; others stay empty."""
    words = iter(format_times([time for time in times_ns if time is not None]))
    return ["" if time is None else next(words) for time in times_ns]


def format_rate(rate: float) -> str:
    """Tokens a second: whole from 100 up.

    >>> format_rate(1969.2), format_rate(31.42)
    ('1969', '31.4')
    """
    return f"{rate:.0f}" if rate >= 99.5 else f"{rate:.1f}"


def format_change(ratio: float) -> str:
    """A ratio as a change: `+12%`, `-3.1%`. Changes below 10 % have one decimal.

    >>> format_change(1.123), format_change(0.969), format_change(1.0)
    ('+12%', '-3.1%', '+0.0%')
    """
    percent = (ratio - 1) * 100
    return f"{percent:+.1f}%" if abs(percent) < 9.95 else f"{percent:+.0f}%"


def format_wide_ratio(ratio: float) -> str:
    """A ratio that may be far above 1 or far below it.

    >>> format_wide_ratio(1.031), format_wide_ratio(0.0123), format_wide_ratio(123.4)
    ('1.03x', '0.012x', '123x')
    """
    if ratio >= 99.95:
        return f"{ratio:.0f}x"
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.3f}x"


def format_error(error: float | None) -> str:
    """An error in two digits. None, as a results file has it, is an error that is not finite.

    >>> format_error(4.44e-16), format_error(0.0), format_error(None)
    ('4.4e-16', '0', 'not finite')
    """
    if error is None:
        return "not finite"
    return "0" if error == 0 else f"{error:.1e}"


def format_p(p_value: float) -> str:
    """A p-value with three decimals; `<0.001` below a thousandth.

    >>> format_p(0.0156), format_p(1.0), format_p(1e-5)
    ('0.016', '1.000', '<0.001')
    """
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def format_seconds(seconds: float) -> str:
    """Three digits in the unit that a reader would choose, from microseconds to days.

    >>> [format_seconds(s) for s in (0.0, 2e-5, 0.0123, 1.5, 90.0, 5400.0, 200_000.0, 10**6)]
    ['0 s', '20.0 us', '12.3 ms', '1.50 s', '90.0 s', '90.0 min', '55.6 h', '11.6 days']
    """
    if not seconds:
        return "0 s"
    for unit, size, end in (("us", 1e-6, 1e-3), ("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0)):
        if seconds < end:
            return f"{_three_digits(seconds / size)} {unit}"
    hours = seconds / 3600
    return f"{_three_digits(hours)} h" if hours < 72 else f"{_three_digits(hours / 24)} days"


def format_link(rate: float) -> str:
    """Bytes a second, in powers of 1000 as networks count: `25.0 GB/s`.

    >>> format_link(12.5e9), format_link(800.0)
    ('12.5 GB/s', '800 B/s')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while rate >= 999.5 and len(units) > 1:
        rate /= 1000
        units.pop(0)
    return f"{_three_digits(rate)} {units[0]}/s"


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"
