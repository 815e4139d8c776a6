"""Spellings that help does not show: --causal without a value, and names of earlier releases."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from typer.core import TyperCommand

# Name in an earlier release -> name today. Help and completion show today's alone.
_EARLIER = {"--block-size": "--block-sizes", "--no-causal": "--causal=no"}
# Options that may come without a value -> what that means, and the values.
_BARE = {"--causal": ("yes", ("no", "yes", "both"))}


class Command(TyperCommand):
    """A command with plain text as its help, and with the spellings above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Typer reads help as markup, which would take [models] for a style and not print it.
        for texts in (self, *self.params):
            for name in ("help", "epilog", "short_help"):
                text = getattr(texts, name, None)
                if text:
                    setattr(texts, name, escape(text))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring every word into today's spelling, then parse as Typer does."""
        known = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        takes_words = any(param.param_type_name == "argument" for param in self.params)
        return super().parse_args(ctx, today(args, known, takes_words=takes_words))


def today(words: list[str], known: set[str], *, takes_words: bool = False) -> list[str]:
    """A command line in today's spelling, for a command that has the options `known`.

    takes_words: the command has arguments too. A word behind an option without a value is then an argument,
    unless it is one of the option's values; without takes_words it is a wrong value.

    >>> today(["--causal", "-n", "64", "--block-size", "32"], {"--causal", "-n", "--block-sizes"})
    ['--causal=yes', '-n', '64', '--block-sizes', '32']
    >>> today(["--causal", "both", "--no-causal"], {"--causal"})
    ['--causal', 'both', '--causal=no']
    >>> today(["--causal", "flash"], {"--causal"}, takes_words=True)
    ['--causal=yes', 'flash']
    """
    end = words.index("--") if "--" in words else len(words)
    found = []
    for word, after in zip(words[:end], [*words[1:end], "-"], strict=False):
        name, equals, value = word.partition("=")
        now = _EARLIER.get(name, name)
        if name in known or now.partition("=")[0] not in known or ("=" in now and equals):
            now = name
        if now in _BARE and now in known and not equals:
            bare, values = _BARE[now]
            if after.startswith("-") or (takes_words and after.lower() not in values):
                now += f"={bare}"
        found.append(now + equals + value)
    return found + words[end:]
