"""neuralforecast for a user without a home directory, which Ray cannot handle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashbench.integrations.forecasting import home


@pytest.mark.parametrize("given", [None, "", "relative"])
def test_there_is_a_home_while_neuralforecast_is_imported_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    seen: list[tuple[str, str | None]] = []

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(home, "import_module", lambda name: seen.append((name, os.environ.get("HOME"))))
    if given is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", given)
    home.import_neuralforecast()
    assert seen == [("neuralforecast", "/nonexistent")]
    assert os.environ.get("HOME") == given
