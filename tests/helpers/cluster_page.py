"""The configurations of docs/clusters.md, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def block(language: str, word: str) -> str:
    """The one code block of that language with that word in it."""
    text = PAGE.read_text("utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = [one for one in blocks if word in one]
    assert len(found) == 1, f"{len(found)} blocks of {language} have {word!r}; tests take the one that has"
    return found[0]
