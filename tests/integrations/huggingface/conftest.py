"""Registers flashbench with Hugging Face's transformers and resets its counts, for each test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _registered() -> None:
    # Not at the top: this file is loaded even if the packages are missing and all tests here are skipped.
    from flashbench.integrations.huggingface import register, reset_stats

    register()
    reset_stats()
