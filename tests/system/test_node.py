"""What a machine is called among those of a cluster."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from flashbench.system import node
from flashbench.system.node import machine_id, node_name


@pytest.fixture(autouse=True)
def _no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLASHBENCH_NODE", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)


def test_the_name_is_the_host_s_unless_slurm_or_the_user_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_name() == platform.node()
    monkeypatch.setenv("SLURMD_NODENAME", "n017")
    assert node_name() == "n017"
    monkeypatch.setenv("FLASHBENCH_NODE", "blue")
    assert node_name() == "blue"
    monkeypatch.setenv("FLASHBENCH_NODE", "")
    assert node_name() == "n017"


def test_one_machine_has_one_id_whatever_it_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = machine_id()
    monkeypatch.setenv("FLASHBENCH_NODE", "blue")
    if node.BOOT_ID.exists():
        assert machine_id() == first
    monkeypatch.setattr(node, "BOOT_ID", tmp_path / "missing")
    assert machine_id() == "blue"
