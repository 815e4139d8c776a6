"""What to say if an integration lacks a package."""

from __future__ import annotations

from flashbench.errors import EngineError


def missing(error: ModuleNotFoundError, what: str, extra: str) -> EngineError:
    """The error, with an install command. what: its subject, such as "flashbench.integrations.torch"."""
    return EngineError(
        f"{what} needs the package {error.name!r}, which is not installed",
        hint=f"pip install 'flashbench[{extra}]'",
    )
