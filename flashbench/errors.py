"""The errors that users can meet, and their exit code."""

from __future__ import annotations


def mid_sentence(text: str) -> str:
    """Another library's message, for use after a colon: first letter lower case, except in an acronym.

    >>> mid_sentence("Expected `int`"), mid_sentence("JSON is malformed")
    ('expected `int`', 'JSON is malformed')
    """
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


class FlashbenchError(Exception):
    """An error that the user can fix. Its message is one line that names the thing, the rule and the value.

    hint: what to do next, printed on its own line. exit_code: the command's exit code.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.args = (message,)  # PyTorch's compiler cannot trace Exception.__init__, which does the same
        self.hint = hint


class AttentionError(FlashbenchError, ValueError):
    """An argument of `attention` or of a class of `flashbench.modules` breaks a rule."""


class UnsupportedError(FlashbenchError):
    """An engine cannot run this problem; the message is the reason."""


class EngineError(FlashbenchError):
    """An engine is unknown, or its library is not installed."""


class MissingError(EngineError):
    """What an engine runs on is not there: its library is not installed, or no kernel was named."""


class ConfigError(FlashbenchError):
    """A command-line option, a study file or a setting of the environment breaks a rule."""


class ResultsError(FlashbenchError):
    """A results file cannot be read, or not be compared."""
