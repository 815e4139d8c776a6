"""Samples of the grid of flash-attention's own tests, by its own criterion."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from helpers.flash_attn_grid import GRIDS, check, sample

SHORT = [(kind, case) for kind in GRIDS for case in sample(kind, 6 if kind == "kvcache" else 2, seed=1)]
LONG = [(kind, case) for kind in GRIDS for case in sample(kind, 60 if kind == "kvcache" else 25, seed=2)]


def _within(kind: str, case: dict[str, Any]) -> None:
    for found in check(kind, case):
        assert found.ratio <= 1, found


@pytest.mark.parametrize(("kind", "case"), SHORT, ids=[kind for kind, _ in SHORT])
def test_a_few_cases(kind: str, case: dict[str, Any]) -> None:
    _within(kind, case)


@pytest.mark.grid
@pytest.mark.parametrize(("kind", "case"), LONG, ids=[kind for kind, _ in LONG])
def test_many_cases(kind: str, case: dict[str, Any]) -> None:
    _within(kind, case)
