"""`import flash_attn` means flashbench's package in a test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def installed() -> Iterator[None]:
    """flash_attn is installed in this process, and gone after the test."""
    from flashbench.integrations.flash_attn import install, uninstall

    install()
    yield
    uninstall()
