"""`flashbench profile --predict`: what would fit, without a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from flashbench.cli.streams import check_output, write_output
from flashbench.errors import ConfigError
from flashbench.measure.machine import available_memory_bytes
from flashbench.report.predict import predict_json, predict_report
from flashbench.studies.memory_fit.predict import predict
from flashbench.studies.study import Study
from flashbench.system.affinity import pinned_to

# Options that show or keep measurements.
_MEASURED = ("save", "resume", "plot", "plain", "memory_detail")


def predict_and_report(study: Study, params: Mapping[str, Any]) -> None:
    """Compute and print the table; with --json, write the document there and print the table on stderr.

    Raises ConfigError beside an option that shows or keeps measurements.
    """
    for name in _MEASURED:
        if params[name]:
            raise ConfigError(
                f"--predict measures nothing, and --{name.replace('_', '-')} is of measurements"
            )
    json = params["json"]
    check_output(json)
    budget = study.memory_budget_bytes
    with pinned_to(study.cpus):
        found = predict(study, available_memory_bytes() if budget is None else budget, free=budget is None)
    if json is not None:
        write_output(json, predict_json(found))
    Console(stderr=json is not None).print(predict_report(found))
