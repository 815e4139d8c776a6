"""Without its extra, an integration names the package that it needs and the command that installs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
sys.modules["{package}"] = None  # as if it were not installed
import flashbench
from flashbench.errors import EngineError
try:
    import flashbench.integrations.{package}
except EngineError as error:
    print(error, error.hint, sep="; ")
"""


@pytest.mark.parametrize(("package", "extra"), [("torch", "torch"), ("jax", "jax"), ("dask", "cluster")])
def test_the_package_is_asked_for_by_name(package: str, extra: str) -> None:
    code = CODE.format(package=package)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == (
        f"flashbench.integrations.{package} needs the package {package!r}, which is not installed; "
        f"pip install 'flashbench[{extra}]'"
    )
