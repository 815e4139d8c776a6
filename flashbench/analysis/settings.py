"""The settings of a run, and the properties of its machine, without which times are not comparable."""

from __future__ import annotations

from flashbench.analysis.words import settings_word
from flashbench.results.export.names import with_cold_caches
from flashbench.results.record import Results

# Settings of whole models that their rows do not have.
_OF_MODELS = ("horizon", "patch_stride", "settings")


def comparable_settings(results: Results) -> dict[str, str]:
    """Each setting in words, the CPU first. Host names, dates and library versions are none."""
    machine = results.machine
    threads = sorted({row.threads for row in results.rows if row.threads is not None})
    found = {
        "cpu": machine.cpu,
        "isa": machine.isa,
        "cores": machine.cores,
        # None: no limit. A file older than this field has None too.
        "cpu_quota": machine.cpu_quota or "none",
        "binding": settings_word(dict(sorted(machine.binding.items()))) or "none",  # of OpenMP, to cores
        "governor": machine.governor,
        "threads": ", ".join(map(str, threads)) or None,
        "cold": with_cold_caches(results),
        **{name: results.study.get(name) for name in _OF_MODELS},
    }
    return {name: "not stated" if value is None else str(value) for name, value in found.items()}
