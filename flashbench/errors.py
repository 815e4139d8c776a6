"""The few kinds of error a user can meet, each with its exit code."""

from __future__ import annotations


def mid_sentence(text: str) -> str:
    """What another library says, to go on after a colon: a small first letter, unless it is an acronym's.

    >>> mid_sentence("Expected `int`"), mid_sentence("JSON is malformed")
    ('expected `int`', 'JSON is malformed')
    """
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


class FlashbenchError(Exception):
    """Something the user can mend: one line that names the thing, the rule and the value.

    `hint` says what to do next, on a line of its own; `exit_code` is what the command exits with.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.args = (message,)  # as Exception.__init__ does, which PyTorch's compiler cannot trace
        self.hint = hint


class AttentionError(FlashbenchError, ValueError):
    """An argument of `attention` or of a class of `flashbench.modules` breaks a rule."""


class UnsupportedError(FlashbenchError):
    """An engine cannot run this problem; the message is the reason."""


class EngineError(FlashbenchError):
    """An engine is unknown, or its library is not installed."""


class ConfigError(FlashbenchError):
    """A command-line option, a study file or a setting of the environment breaks a rule."""


class ResultsError(FlashbenchError):
    """A results file cannot be read, or not be compared."""
