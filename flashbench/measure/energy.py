"""Energy by RAPL, the counters of Intel and AMD, if Linux allows us to read them: rarely without root."""

from __future__ import annotations

from pathlib import Path

from flashbench.system.sysfs import read_number, read_text

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules of all packages and their memory between two readings.

    A counter wraps to zero every hour or so; the meter handles one wrap.
    """

    def __init__(self) -> None:
        """Find the counters. It is no error to find none."""
        self._domains = [domain for domain in _domains() if read_number(domain / "energy_uj") is not None]
        self._start = self._read()

    @property
    def available(self) -> bool:
        """Whether there is a counter to read."""
        return bool(self._domains)

    def restart(self) -> None:
        """Count from now on."""
        self._start = self._read()

    def joules(self) -> float | None:
        """Since the start; None without counters."""
        if not self._domains:
            return None
        total = 0
        for domain, before, now in zip(self._domains, self._start, self._read(), strict=True):
            turn = read_number(domain / "max_energy_range_uj") or 0
            total += now - before if now >= before else now + turn - before
        return total / 1e6

    def _read(self) -> list[int]:
        return [read_number(domain / "energy_uj") or 0 for domain in self._domains]


def _domains() -> list[Path]:
    """Packages (intel-rapl:0) and the DRAM domains in them.

    Other domains would count twice: a package includes its cores and uncore, and the platform (psys) includes
    the packages.
    """
    packages = [path for path in sorted(POWERCAP.glob("*-rapl:*")) if _name(path).startswith("package")]
    inner = [path for package in packages for path in sorted(package.glob("*-rapl:*:*"))]
    return packages + [path for path in inner if _name(path) == "dram"]


def _name(domain: Path) -> str:
    return read_text(domain / "name") or ""
