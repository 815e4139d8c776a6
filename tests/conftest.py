"""What all tests share; its being here also lets them import the helpers beside it, such as fake_results."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The first example of a test may compile a kernel: how long an example takes says nothing here.
settings.register_profile("flashbench", deadline=None)
settings.load_profile("flashbench")


@pytest.fixture
def repository() -> Path:
    """The checkout that the tests run in."""
    return Path(__file__).parent.parent
