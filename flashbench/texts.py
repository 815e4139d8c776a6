r"""Text that may hold bytes which are no UTF-8, as file names and values of the environment may.

Python keeps such a byte as a lone surrogate, so that the file is found again; no file of ours and no terminal
takes that. Wherever text leaves, the byte is written as `\xe9`.
"""

from __future__ import annotations

import codecs
from typing import Any

ERRORS = "flashbench"  # how a text stream names the handler below


def to_utf8(text: str) -> bytes:
    r"""Its bytes in a file.

    >>> to_utf8("r\udce9sum\u00e9").decode()
    'r\\xe9sumé'
    """
    return text.encode("utf-8", ERRORS)


def readable(text: str) -> str:
    r"""The text as a reader will see it.

    >>> print(readable("r\udce9sum\u00e9"))
    r\xe9sumé
    """
    return to_utf8(text).decode()


def to_json(value: Any) -> bytes:
    """`msgspec.json.encode`, of any text."""
    import msgspec  # here: --help needs the rest of this module, and must not import it

    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_readable(msgspec.to_builtins(value)))


def indented_json(value: Any) -> bytes:
    """`to_json` for people to read, ending in a newline. Floats keep every digit."""
    import msgspec  # here for the same reason

    return msgspec.json.format(to_json(value), indent=2) + b"\n"


def _readable(value: Any) -> Any:
    match value:
        case str():
            return readable(value)
        case dict():
            return {_readable(key): _readable(each) for key, each in value.items()}
        case list() | tuple():
            return [_readable(each) for each in value]
    return value


def _write_out(error: UnicodeError) -> tuple[str, int]:
    """Undecoded bytes by their numbers, and a question mark for a sign that a terminal cannot show."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(
        f"\\x{ord(sign) - 0xDC00:02x}" if "\udc80" <= sign <= "\udcff" else "?" for sign in signs
    ), error.end


codecs.register_error(ERRORS, _write_out)
