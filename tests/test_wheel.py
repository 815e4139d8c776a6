"""The files of an installed flashbench besides its modules."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def test_a_wheel_holds_the_page_s_template_and_the_documented_figures(
    repository: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(words, cwd=repository, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        assert {
            "flashbench/report/page/template.html.jinja",
            "flashbench/report/page/page.css",
            "flashbench/results/documented.json",
        } <= held
        assert not [name for name in held if name.startswith(("benchmarks/", "docs/", "tests/"))]
        assert (
            archive.read("flashbench/results/documented.json")
            == (repository / "results" / "documented.json").read_bytes()
        )
        archive.extractall(tmp_path / "installed")
    # As installed: with no checkout above the package, the wheel's own copy is read.
    program = (
        "from flashbench.results import documented; "
        "print(documented.__file__, len(documented.documented_results().measurements))"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=tmp_path / "installed", capture_output=True, text=True, check=True)
    place, count = done.stdout.split()
    assert place.startswith(str(tmp_path))
    assert count == "20"
