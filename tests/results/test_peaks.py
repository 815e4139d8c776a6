"""Which of a machine's measured peaks a measurement is compared with."""

from __future__ import annotations

import msgspec
import pytest
from helpers.fake_results import MACHINE, make_measurement

from flashbench.results.peaks import path_peak, peak_of

MEASURED = msgspec.structs.replace(
    MACHINE,
    peak_gflops={
        "float32": 233.0,
        "bfloat16/convert": 230.0,
        "bfloat16/amx": 2200.0,
        "float16/convert": 229.0,
    },
)


@pytest.mark.parametrize(
    ("dtype", "path", "gflops"),
    [
        ("float32", "fma", 233.0),
        ("float32", None, 233.0),
        ("bfloat16", "convert", 230.0),
        ("bfloat16", "amx", 2200.0),
        ("bfloat16", None, 2200.0),  # an engine without paths: the fastest that was measured
        ("float16", None, 229.0),
        ("bfloat16", "dot_bf16", None),
        ("float64", None, None),
    ],
)
def test_each_path_has_its_own_peak(dtype, path, gflops) -> None:
    assert path_peak(MEASURED, dtype, path) == gflops


def test_a_row_of_an_older_file_has_the_peak_of_its_dtype() -> None:
    assert peak_of(MACHINE, make_measurement("flash", 128)) == MACHINE.peak_gflops["float64"]
