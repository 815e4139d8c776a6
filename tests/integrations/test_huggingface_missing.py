"""Without the extra `hf`, the Hugging Face integration says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_the_missing_package_is_named(package: str) -> None:
    pytest.importorskip("torch")
    code = f"""
import sys
sys.modules[{package!r}] = None
from flashbench.errors import EngineError
try:
    import flashbench.integrations.huggingface
except EngineError as error:
    print(error, error.hint)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"needs the package {package!r}" in result.stdout
    assert "pip install 'flashbench[hf]'" in result.stdout
