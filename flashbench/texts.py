r"""Text that may hold bytes that are not UTF-8, such as file names and environment variables.

Python keeps such a byte as a lone surrogate, so that it can find the file again. Our files and terminals
cannot take a surrogate. All output writes the byte as `\xe9`.
"""

from __future__ import annotations

import codecs
from typing import Any

ERRORS = "flashbench"  # the name of the error handler below, for text streams


def to_utf8(text: str) -> bytes:
    r"""The text's bytes, for a file.

    >>> to_utf8("r\udce9sum\u00e9").decode()
    'r\\xe9sumé'
    """
    return text.encode("utf-8", ERRORS)


def readable(text: str) -> str:
    r"""The text as a reader sees it in our output.

    >>> print(readable("r\udce9sum\u00e9"))
    r\xe9sumé
    """
    return to_utf8(text).decode()


def to_json(value: Any) -> bytes:
    """`msgspec.json.encode` for values with any text."""
    import msgspec  # here, as --help imports this module and must not import msgspec

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
    """`\\x..` for each undecoded byte, and ? for each character that the stream cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(
        f"\\x{ord(sign) - 0xDC00:02x}" if "\udc80" <= sign <= "\udcff" else "?" for sign in signs
    ), error.end


codecs.register_error(ERRORS, _write_out)
