"""Without its extra, an integration names the package that it needs and the command that installs it."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import flashbench
from flashbench.errors import EngineError
try:
    import flashbench.integrations.torch
except EngineError as error:
    print(error, error.hint, sep="; ")
"""


def test_pytorch_is_asked_for_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == (
        "flashbench.integrations.torch needs the package 'torch', which is not installed; "
        "pip install 'flashbench[torch]'"
    )
