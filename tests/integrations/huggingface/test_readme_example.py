"""What the README shows of Hugging Face runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")


def test_readme(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```", text.split("## Hugging Face\n")[1], re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 50, 100)  # type: ignore[attr-defined]
