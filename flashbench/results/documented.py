"""The figures of the project's source document, as a results file that the package ships."""

from __future__ import annotations

from pathlib import Path

from flashbench.results.record import Results
from flashbench.results.store import load

_INSTALLED = Path(__file__).with_name("documented.json")  # a wheel has it here
_IN_CHECKOUT = Path(__file__).parents[2] / "results" / "documented.json"


def documented_results() -> Results:
    """results/documented.json, of the installed package or of the checkout."""
    return load(_INSTALLED if _INSTALLED.is_file() else _IN_CHECKOUT)
