"""The command wherever it is started: beside stray files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_started_by_its_module_it_imports_nothing_of_the_current_directory(tmp_path: Path) -> None:
    for name in ("json", "re", "typing", "msgspec", "typer"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a module of the current directory')")
    command = [sys.executable, "-m", "flashbench", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
