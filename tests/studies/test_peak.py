"""The hardware limit is measured robustly, in calls that are long enough."""

from __future__ import annotations

import time

import pytest

from flashbench.kernels.products.paths import PATHS, obstacle
from flashbench.studies import peak
from flashbench.studies.peak import PeakWorkload, build, peak_gflops


def test_calls_are_made_long_enough() -> None:
    asked = []

    def run(iterations: int) -> int:
        asked.append(iterations)
        time.sleep(iterations * 1e-4)
        return 10 * iterations

    workload = PeakWorkload(run)
    workload.call()
    assert asked[-1] * 1e-4 >= peak.CALL_NS / 1e9 / 2
    assert workload.describe() == {"flops": 10 * asked[-1]}


def test_thread_that_wakes_too_late_does_not_lower_the_operations_of_a_call() -> None:
    def run(iterations: int) -> int:
        time.sleep(0.006)
        late = next(calls) == 2
        return iterations * (1 if late else 2)

    calls = iter(range(10))
    workload = PeakWorkload(run)
    workload.call()
    assert workload.describe() == {"flops": 2}


@pytest.mark.parametrize(
    ("dtype", "path"),
    [(dtype, name) for name, path in PATHS.items() if obstacle(path) is None for dtype in path.dtypes],
)
def test_real_limit_of_each_path_counts_operations(dtype: str, path: str) -> None:
    workload = build(dtype, 1, path)
    workload.call()
    assert workload.describe()["flops"] > 0
    assert workload.check() == {}


def test_peak_is_the_median_of_the_best_calls() -> None:
    assert peak_gflops(1000, [[10, 50], [90, 5], [20, 21]]) == 100.0
    assert peak_gflops(1000, []) is None
