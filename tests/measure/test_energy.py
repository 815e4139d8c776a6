"""Energy of packages and their memory, across a counter's overflow; None if it cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashbench.measure import energy
from flashbench.measure.energy import EnergyMeter

RANGE_UJ = 262_143_328_850
# A laptop's tree: the platform contains the package, and the package contains its cores; memory is separate.
DOMAINS = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0/intel-rapl:0:0": ("core", 500_000),
    "intel-rapl:0/intel-rapl:0:1": ("dram", 200_000),
    "intel-rapl:1": ("psys", 9_000_000),
    "intel-rapl:2": ("package-1", 3_000_000),
}


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place, (name, microjoules) in DOMAINS.items():
        (tmp_path / place).mkdir(parents=True)
        for file, text in {
            "name": name,
            "energy_uj": str(microjoules),
            "max_energy_range_uj": str(RANGE_UJ),
        }.items():
            (tmp_path / place / file).write_text(f"{text}\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def spend(powercap: Path, place: str, microjoules: int) -> None:
    counter = powercap / place / "energy_uj"
    counter.write_text(f"{(int(counter.read_text()) + microjoules) % RANGE_UJ}\n")


def test_packages_and_memory_add_up_and_their_parts_do_not_count_twice(powercap: Path) -> None:
    meter = EnergyMeter()
    assert meter.available
    assert meter.joules() == 0.0
    for place in DOMAINS:
        spend(powercap, place, 1_000_000)
    assert meter.joules() == pytest.approx(3.0)


def test_restart_counts_from_then(powercap: Path) -> None:
    meter = EnergyMeter()
    spend(powercap, "intel-rapl:0", 5_000_000)
    meter.restart()
    spend(powercap, "intel-rapl:2", 2_000_000)
    assert meter.joules() == pytest.approx(2.0)


def test_a_counter_may_start_again_from_zero(powercap: Path) -> None:
    (powercap / "intel-rapl:0" / "energy_uj").write_text(str(RANGE_UJ - 1_000_000))
    meter = EnergyMeter()
    spend(powercap, "intel-rapl:0", 4_000_000)
    assert int((powercap / "intel-rapl:0" / "energy_uj").read_text()) == 3_000_000
    assert meter.joules() == pytest.approx(4.0)


def test_counters_that_are_not_ours_to_read_are_left_out(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_text

    def forbidden(path: Path, **how: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, **how)

    monkeypatch.setattr(Path, "read_text", forbidden)
    meter = EnergyMeter()
    assert not meter.available
    assert meter.joules() is None


def test_machine_without_counters_has_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    meter = EnergyMeter()
    meter.restart()
    assert not meter.available
    assert meter.joules() is None
