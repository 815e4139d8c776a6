"""Documents as the text of a file."""

from __future__ import annotations

from typing import Any

import msgspec

from flashbench.texts import to_json


def as_json(document: Any) -> str:
    """Indented, ending in a newline, as results files are; floats keep every digit."""
    return msgspec.json.format(to_json(document), indent=2).decode() + "\n"
