"""Entries of a table of tuned block sizes, for tests of the code that reads and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashbench.engines.flash.tuned import Check, Entry, encode

CHECKS = [
    Check(seqlen=512, heads=1, built_in=(16, 176), ratio=0.91, low=0.9, high=0.93),
    Check(seqlen=1023, heads=1, built_in=(16, 344), ratio=0.8, low=0.79, high=0.81),
]


def make_entry(**changes: Any) -> Entry:
    """An entry for float64, full, forward, 512 to 1023 keys, with blocks that the rule would never choose."""
    fields: dict[str, Any] = {
        "dtype": "float64",
        "head_dim": 64,
        "causal": False,
        "direction": "fwd",
        "path": "fma",
        "seqlen_from": 512,
        "heads_from": 1,
        "block_q": 13,
        "block_k": 21,
        "threads": 4096,
        "checks": CHECKS,
    }
    return Entry(**fields | changes)


def write_table(path: Path, *entries: Entry) -> None:
    """Write a table for this CPU and these kernels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(list(entries)))
