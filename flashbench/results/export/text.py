"""Documents as the text of a file."""

from __future__ import annotations

from typing import Any

import msgspec


def as_json(document: Any) -> str:
    """Indented, ending in a newline, as results files are; floats keep every digit."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
