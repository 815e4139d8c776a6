"""Packages with engines for tests: the example, installed by pip, and made-up ones, also broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "example_plugin"

_GOOD = "from flashbench.engines.peers.numpy import NumpyEngine\nclass E(NumpyEngine):\n"
# name of the engine -> the module that offers it as `E`
BROKEN: Mapping[str, str] = {
    "import-error": "import a_library_that_is_not_there",
    "syntax-error": "def E(:",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "exits": "import sys\nsys.exit(3)",
    "exits-hard": "import os\nos._exit(7)",
    "hangs": "import time\ntime.sleep(3600)",
    "no-engine": "class E:\n    name = summary = 'an engine by name alone'",
    "no-attribute": "",
    "no-call": "E = 7",
    "raises": "class E:\n    def __init__(self):\n        raise RuntimeError('two\\nlines')",
    "unknown-layout": f"{_GOOD}    layout = 'sbhd'",
    "unsupported-raises": f"{_GOOD}    def unsupported(self, *_):\n        return 1 / 0",
    "wrong-forward": (
        f"{_GOOD}    def forward(self, *a, **k):\n        f = super().forward(*a, **k)\n"
        "        return f._replace(o=f.o.tolist())"
    ),
    "overwriting": f"{_GOOD}    def forward(self, p, s, q, *a, **k):\n        q[...] = 0\n"
    "        return super().forward(p, s, q, *a, **k)",
    "choosy": f"{_GOOD}    def unsupported(self, *_):\n        return 'it is Sunday'",
}


def offer(directory: Path, engines: Mapping[str, str], distribution: str) -> None:
    """Write the metadata of a distribution that offers the engines, each given as `module:attribute`."""
    metadata = directory / f"{distribution.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {place}\n" for name, place in engines.items())
    (metadata / "entry_points.txt").write_text(f"[flashbench.engines]\n{lines}")


def install(directory: Path, modules: Mapping[str, str], *, distribution: str = "made-up") -> None:
    """Write a package into the directory. It offers `E` of each module as the engine named by its key."""
    name = distribution.replace("-", "_")
    offer(directory, {engine: f"{name}_{i}:E" for i, engine in enumerate(modules)}, distribution)
    for i, source in enumerate(modules.values()):
        (directory / f"{name}_{i}.py").write_text(source)


def install_example(directory: Path) -> None:
    """Let pip build and install tests/example_plugin into the directory, like a user, but offline."""
    copy = directory / "source"
    shutil.copytree(EXAMPLE, copy)  # a build leaves files next to the sources
    target = directory / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target), str(copy)]
    subprocess.run([*pip, *options], check=True, capture_output=True, text=True)
