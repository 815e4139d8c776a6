"""benchmarks/bits.py: hashes and their comparison, which find every bit that a restructuring changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flashbench.dtypes import DTYPES, Dtype

HASHES = {"square-5/flash/float32/fwd/o": "aa", "square-5/flash/float32/bwd/dq": "bb"}


@pytest.mark.parametrize(
    ("new", "exit_code", "said"),
    [
        (HASHES, 0, "avx2: 2 equal, 0 different, 0 missing, 0 new\n"),
        (
            {**HASHES, "square-5/flash/float32/bwd/dq": "cc"},
            1,
            "avx2: 1 equal, 1 different, 0 missing, 0 new\n  different: square-5/flash/float32/bwd/dq\n",
        ),
        (
            {"square-5/flash/float32/fwd/o": "aa", "square-5/flash/float32/bwd/dv": "bb"},
            1,
            "avx2: 1 equal, 0 different, 1 missing, 1 new\n"
            "  missing: square-5/flash/float32/bwd/dq\n"
            "  new: square-5/flash/float32/bwd/dv\n",
        ),
        ({}, 1, "avx2: 0 equal, 0 different, 2 missing, 0 new\n"),
    ],
    ids=["equal", "different", "missing and new", "empty"],
)
def test_two_files_are_equal_only_if_all_hashes_are(
    repository: Path, tmp_path: Path, new: dict[str, str], exit_code: int, said: str
) -> None:
    for name, hashes in (("base", HASHES), ("new", new)):
        record = {"cpu": "a CPU", "isa": "avx2", "hashes": hashes}
        (tmp_path / f"{name}-avx2.json").write_text(json.dumps(record))
    words = [sys.executable, str(repository / "benchmarks" / "bits.py"), "compare", "base", "new"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (exit_code, "")
    assert done.stdout.startswith(said)


def test_an_instruction_set_without_its_file_is_no_success(repository: Path, tmp_path: Path) -> None:
    for name in ("base-avx2", "base-generic", "new-avx2"):
        record = {"cpu": "a CPU", "isa": name.partition("-")[2], "hashes": HASHES}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    words = [sys.executable, str(repository / "benchmarks" / "bits.py"), "compare", "base", "new"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "generic: no file of new\n" in done.stdout


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hash_tells_every_bit_but_those_of_a_nan(
    repository: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    from bits import hash_of

    x = DTYPES[dtype].make(np.array([1.0, np.inf, np.nan, -0.0]))
    other_nan, last_bit = x.copy(), x.copy()
    patterns = [array.view(f"u{x.itemsize}") for array in (other_nan, last_bit)]
    patterns[0][2] |= 1
    patterns[1][0] |= 1
    assert hash_of(other_nan) == hash_of(x)
    assert len({hash_of(array) for array in (x, last_bit, x[::-1], x[:3])}) == 4
