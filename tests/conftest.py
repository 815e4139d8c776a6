"""What all tests share; its being here also lets them import the helpers beside it, such as fake_results."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def repository() -> Path:
    """The checkout that the tests run in."""
    return Path(__file__).parent.parent
