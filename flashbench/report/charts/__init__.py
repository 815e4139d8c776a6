"""Charts, one module each: from records to a Matplotlib Figure, without pyplot and global state."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from flashbench.errors import ConfigError, FlashbenchError


def require_plot_extra() -> None:
    """Raise FlashbenchError, with an install command, unless the extra `plot` is installed."""
    for package in ("matplotlib", "jinja2"):
        if find_spec(package) is None:
            raise FlashbenchError(
                f"charts need the package {package!r}, which is not installed",
                hint="pip install 'flashbench[plot]'",
            )


def chart_kind(option: str, path: str) -> Literal["svg", "png"]:
    """The format of a file, from its name.

    Raises ConfigError, whose message begins with `option`, for any other format.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".svg":
        return "svg"
    if suffix == ".png":
        return "png"
    raise ConfigError(f"{option} takes a name that ends in .svg or .png, not {path!r}")
