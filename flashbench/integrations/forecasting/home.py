"""Imports neuralforecast for users without a home directory, as in many containers."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

NO_HOME = "/nonexistent"  # Debian's home directory for users without one


def import_neuralforecast() -> None:
    """Import it with $HOME set if there is no home directory, as Ray, which it imports, fails without one."""
    try:
        Path.home()
    except RuntimeError:
        before = os.environ.get("HOME")
        os.environ["HOME"] = NO_HOME
        try:
            import_module("neuralforecast")
        finally:
            os.environ.pop("HOME", None)
            if before is not None:
                os.environ["HOME"] = before
