"""neuralforecast for users without a home directory, as in many containers."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

NO_HOME = "/nonexistent"  # what Debian gives to users who have none


def import_neuralforecast() -> None:
    """Import it with some home to ask for: Ray, which it imports, fails where there is none."""
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
