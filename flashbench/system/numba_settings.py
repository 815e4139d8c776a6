"""Refuses settings of Numba with which our kernels cannot run, before Numba reads them.

Numba itself would answer with a traceback, a long warning around one useful line, or nothing.
"""

from __future__ import annotations

import os

from flashbench.errors import ConfigError


def check_numba_settings() -> None:
    """Raise ConfigError that names a wrong setting. It reads only the environment, so it costs nothing."""
    numba_num_threads()
    disabled = os.environ.get("NUMBA_DISABLE_JIT")
    if disabled and _number(disabled) != 0:  # a Dockerfile unsets a variable by an empty value
        raise without_compiler(f"NUMBA_DISABLE_JIT={disabled!r}")


def numba_num_threads() -> int | None:
    """The number in $NUMBA_NUM_THREADS; None if it is not set, or empty.

    Raises ConfigError if it is not a whole number from 1 up.
    """
    text = os.environ.get("NUMBA_NUM_THREADS")
    if not text:
        return None
    number = _number(text)
    if number is None or number < 1:
        raise ConfigError(
            f"NUMBA_NUM_THREADS must be a whole number of threads, at least 1, not {text!r}",
            hint="set it to one, or unset it",
        )
    return number


def without_compiler(setting: str) -> ConfigError:
    """The error for a setting that turns Numba's compiler off."""
    return ConfigError(
        f"{setting}: flashbench's kernels run compiled or not at all, so it must be 0 or not set",
        hint="unset NUMBA_DISABLE_JIT",
    )


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
