"""Every test of PyTorch's integration counts from nought, and leaves nothing to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _from_nought() -> Iterator[None]:
    # Not at the top: without PyTorch every file here is skipped, and this one still loaded.
    from flashbench.integrations.torch import reset_stats

    reset_stats()
    yield
    reset_stats()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing that PyTorch compiled for another test is found, and nothing is left."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
