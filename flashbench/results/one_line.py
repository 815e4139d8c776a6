"""Foreign text, such as a plug-in's name or a reason in a file, as one line of plain text."""

from __future__ import annotations

from typing import Any

from flashbench.texts import readable

# GitHub's runner reads a command after this, anywhere in a line of a log.
_COMMAND = "##["


def one_line(text: str) -> str:
    r"""The text on one line: line breaks and tabs become spaces, invisible characters become escapes.

    So a text cannot begin a new line, move a terminal's cursor, or reverse the text after it, and it holds no
    character that XML or UTF-8 forbids. A byte that is not UTF-8 becomes `\xe9`. Plain text of one line is
    returned unchanged.

    >>> one_line("slow\r\n::error::no"), one_line("\x1b[2J red"), one_line("a\u202eb")
    ('slow ::error::no', '\\x1b[2J red', 'a\\u202eb')
    """
    if not text.isprintable():
        text = "".join(map(_visible, readable(text).replace("\r\n", "\n")))
    return text.replace(_COMMAND, "## [")


def plain_texts(value: Any) -> Any:
    """The same value, with every text in it on one line, also in lists, dicts and keys of dicts."""
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
