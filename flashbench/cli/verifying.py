"""How `flashbench verify` reads the options that it shares with the commands that measure."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashbench.cli.readers import ONE_COUNT, OPTIONS, PASSES, Options, read_params
from flashbench.errors import ConfigError
from flashbench.studies.audit import Finding
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


def make_directory(directory: str) -> None:
    """Make the directory of programs, before anything runs. Raises ConfigError if none can be written."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise ConfigError(f"--scripts cannot write to {directory!r}: {error.strerror}") from error


def write_scripts(directory: str, findings: Sequence[Finding]) -> list[str | None]:
    """Write the findings' programs into a directory. Their files; None: there is no program.

    Raises ConfigError if that cannot be done.
    """
    files: list[str | None] = []
    for number, finding in enumerate(findings, 1):
        if finding.script is None:
            files.append(None)
            continue
        path = Path(directory) / f"{finding.engine}-{number}-{finding.kind.replace(' ', '-')}.py"
        try:
            path.write_text(finding.script, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--scripts cannot write {str(path)!r}: {error.strerror}") from error
        files.append(str(path))
    return files
