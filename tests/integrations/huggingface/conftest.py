"""Hugging Face's transformers with flashbench among its attentions, for each test, and counts from nought."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _registered() -> None:
    # Not at the top: without the packages every file here is skipped, and this one still loaded.
    from flashbench.integrations.huggingface import register, reset_stats

    register()
    reset_stats()
