"""Hugging Face's transformers with flashbench among its attentions; nothing is tested without."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from flashbench.integrations.huggingface import register, reset_stats


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()
    reset_stats()
