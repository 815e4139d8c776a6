"""The machine's record: facts before anything is measured, limits from workers, failures as warnings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import fake_engines

from flashbench.dtypes import DTYPES
from flashbench.errors import EngineError
from flashbench.kernels.products import paths
from flashbench.kernels.products.paths import path_of
from flashbench.measure.worker import WorkerFailure
from flashbench.results.peaks import peak_name
from flashbench.results.record import Results
from flashbench.results.store import decode, encode
from flashbench.studies import limits, machine, peak
from flashbench.studies.machine import inspect_machine
from flashbench.studies.progress import Progress


@pytest.fixture
def fake_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "FACTORY", f"{fake_engines.__name__}:build_peak")
    monkeypatch.setattr(machine, "PEAK_BURSTS", 1)
    monkeypatch.setattr(limits, "measure_bandwidth", lambda worker, threads, *, bursts: 10.0 * threads)


def inspect(**options: Any) -> Results:
    given = {"noise_floor": lambda: 0.02, **options}
    return inspect_machine(command=["flashbench", "machine"], threads=1, **given)


@pytest.mark.usefixtures("fake_limits")
def test_machine_is_described_and_measured() -> None:
    results = inspect()
    found = results.machine
    assert set(found.peak_gflops) == {peak_name(dtype, path) for dtype, path in found.paths.items()}
    assert {"float64", "float32"} <= set(found.peak_gflops)
    assert found.peak_threads == 1
    assert found.read_bandwidth_gbps == 10.0
    assert found.noise_floor == 0.02
    assert found.others_cores is not None
    assert found.isa
    assert found.cores
    assert results.kind == "machine"
    assert results.measurements == []
    assert results.complete
    assert decode(encode(results), name="machine.json") == results
    assert msgspec.to_builtins(results.config) == {"threads": 1, "quick": False}


def test_quick_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was to measure nothing")

    monkeypatch.setattr(machine, "WorkerPool", refuse)
    results = inspect(quick=True, noise_floor=refuse)
    assert results.machine.peak_gflops == {}
    assert results.machine.read_bandwidth_gbps is None
    assert results.machine.noise_floor is None
    assert results.machine.cpu


def test_every_dtype_has_a_path_and_every_other_path_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    here = inspect(quick=True).machine
    assert {dtype: path_of(dtype).product.name for dtype in DTYPES} == here.paths
    assert here.paths["float32"] == "fma"
    monkeypatch.setattr(paths, "usable_features", set)
    path_of.cache_clear()
    lesser = inspect(quick=True).machine
    path_of.cache_clear()
    assert lesser.paths["bfloat16"] == lesser.paths["float16"] == "convert"
    assert lesser.paths_lacking["dot_bf16"] == "this CPU lacks avx512_bf16"
    assert lesser.paths_lacking["amx"].startswith("this CPU lacks amx_bf16")


@pytest.mark.usefixtures("fake_limits")
def test_what_cannot_be_measured_is_missing_and_a_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> float:
        raise WorkerFailure("out_of_memory", "MemoryError")

    def no_floor() -> float:
        raise EngineError("no noise floor: flash crashed")

    monkeypatch.setattr(limits, "measure_bandwidth", fail)
    monkeypatch.setattr(peak, "FACTORY", f"{fake_engines.__name__}:build_no_peak")
    results = inspect(noise_floor=no_floor)
    assert results.machine.peak_gflops == {}
    assert results.machine.read_bandwidth_gbps is None
    assert results.machine.noise_floor is None
    assert "no noise floor: flash crashed" in results.warnings
    assert "read bandwidth could not be measured" in results.warnings
    assert "FMA peak of float32 could not be measured" in results.warnings


@pytest.mark.usefixtures("fake_limits")
def test_progress_goes_from_nothing_to_everything() -> None:
    steps: list[Progress] = []
    inspect(on_progress=steps.append)
    assert (steps[0].done, steps[-1].done) == (0, steps[-1].total)
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_advice_is_the_records_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def advise(found: object, **known: Any) -> list[str]:
        asked.append(known)
        return ["sit down"]

    monkeypatch.setattr(machine, "advice", advise)
    assert inspect(quick=True).warnings == ["sit down"]
    assert set(asked[0]) == {"all_cores", "host_isa", "energy"}
