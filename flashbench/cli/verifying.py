"""How `flashbench verify` reads the options that it shares with the commands that measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashbench.cli.readers import ONE_COUNT, OPTIONS, PASSES, Options, read_params
from flashbench.studies.cases import Case, narrow_cases

_OPTIONS: Options = {
    **{name: OPTIONS[name] for name in ("dtype", "causal")},
    "threads": ONE_COUNT,
    "direction": PASSES,
}


def narrowed(cases: Sequence[Case], params: Mapping[str, Any]) -> list[Case]:
    """The cases that the parameters leave. Raises ConfigError for a bad option, or if no case is left."""
    return narrow_cases(cases, **read_params(params, _OPTIONS))


def options_of(params: Mapping[str, Any]) -> list[str]:
    """The options of a command line that runs one case, given by its full name, as these parameters do."""
    given = read_params(params, _OPTIONS)
    words = ["--direction", ",".join(given["directions"])] if "directions" in given else []
    return words + (["--threads", str(given["threads"])] if "threads" in given else [])
