"""Texts of others, such as a plug-in's name or a reason in a file, as one line of plain text."""

from __future__ import annotations

from typing import Any

from flashbench.texts import readable

# GitHub's runner takes this for the beginning of a command anywhere in a line of a log.
_COMMAND = "##["


def one_line(text: str) -> str:
    r"""The text on one line: line breaks and tabs are spaces, what cannot be seen is shown as an escape.

    So no text begins a line of its own, moves a terminal's cursor, turns the order of what follows, or is
    a character that XML and UTF-8 have no place for; a byte of a name that is no UTF-8 is `\xe9`. Text of one
    line stays as it is.

    >>> one_line("slow\r\n::error::no"), one_line("\x1b[2J red"), one_line("a\u202eb")
    ('slow ::error::no', '\\x1b[2J red', 'a\\u202eb')
    """
    if not text.isprintable():
        text = "".join(map(_visible, readable(text).replace("\r\n", "\n")))
    return text.replace(_COMMAND, "## [")


def plain_texts(value: Any) -> Any:
    """The same value, every text in its lists and dicts on one line, keys too."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {plain_texts(key): plain_texts(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain_texts, value))
    return value


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
