"""Settings of Numba under which our kernels cannot run, told before Numba reads them.

It would say so in a traceback, in many lines of a warning with one inside, or not at all.
"""

from __future__ import annotations

import os

from flashbench.errors import ConfigError


def check_numba_settings() -> None:
    """Raises ConfigError that names the setting. Looks at the environment alone, so that it costs nothing."""
    numba_num_threads()
    disabled = os.environ.get("NUMBA_DISABLE_JIT")
    if disabled and _number(disabled) != 0:  # an empty one is how a Dockerfile unsets it
        raise without_compiler(f"NUMBA_DISABLE_JIT={disabled!r}")


def numba_num_threads() -> int | None:
    """What $NUMBA_NUM_THREADS says; None where it is not set, or empty.

    Raises ConfigError for no number of threads.
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
    """The error where Numba is told to compile nothing."""
    return ConfigError(
        f"{setting}: flashbench's kernels run compiled or not at all, so it must be 0 or not set",
        hint="unset NUMBA_DISABLE_JIT",
    )


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
