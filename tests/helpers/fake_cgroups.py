"""Control groups in a directory: only the files that `flashbench.system.cgroup` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


class FakeGroups:
    """Starts without any hierarchy."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.process = directory / "proc" / "self"
        self.process.mkdir(parents=True)
        self._mounts: list[str] = ["22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw"]
        self._entries: list[str] = []
        self._hierarchy = ("", "")  # its number and controllers
        self._top, self._root = Path(), "/"
        self._save()

    def mount(
        self, version: Literal[1, 2], controllers: str = "", *, root: str = "/", at: str | None = None
    ) -> None:
        """Add a hierarchy, visible from `root` down. The next groups belong to it."""
        self._top = self._directory / "sys" / "fs" / "cgroup" / (at or controllers or "unified")
        self._root = root
        self._top.mkdir(parents=True)
        place = str(self._top).replace(" ", "\\040")
        kind, options = ("cgroup", f"rw,{controllers}") if version == 1 else ("cgroup2", "rw,nsdelegate")
        self._mounts.append(f"31 22 0:26 {root} {place} rw,nosuid shared:4 - {kind} cgroup {options}")
        self._hierarchy = (str(len(self._mounts)), controllers) if version == 1 else ("0", "")
        self._save()

    def enter(self, path: str) -> None:
        """Put the process into that group of the last hierarchy."""
        self._entries.append(":".join((*self._hierarchy, path)))
        self._save()

    def write(self, path: str, files: dict[str, str]) -> Path:
        """Write files of a group, by its path in the hierarchy. Returns their directory."""
        group = self._top / path.removeprefix(self._root).lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (group / name).write_text(content + "\n")
        return group

    def _save(self) -> None:
        (self.process / "mountinfo").write_text("\n".join(self._mounts) + "\n")
        (self.process / "cgroup").write_text("\n".join(self._entries) + "\n")
