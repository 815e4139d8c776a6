"""Optional features and decoding from the command line to the table, and each mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from flashbench.results.store import load
from flashbench.studies.study import Study

# Words of a command line -> the settings that they make.
FLAGS: dict[str, dict[str, Any]] = {
    "--window 256": {"windows": [256]},
    "--window none --window 128,0": {"windows": ["none", [128, 0]]},
    "--window none,16": {"windows": [["none", 16]]},
    "--softcap 50": {"softcap": 50.0},
    "--alibi": {"alibi": True},
    "--sinks": {"sinks": True},
    "--mask bool": {"mask": "bool"},
    "--mask float --mask-axes bhqk": {"mask": "float", "mask_axes": "bhqk"},
    "--mask block --mask-block 128": {"mask": "block", "mask_block": 128},
    "--dropout 10%": {"dropout": 0.1},
    "--dropout 0.1 --dropout-seed 7": {"dropout": 0.1, "dropout_seed": 7},
    "--key-lengths 0.25,0.5,1": {"key_lengths": [0.25, 0.5, 1.0], "batch": 3},
    "--key-lengths 100 --batch 2": {"key_lengths": [100], "batch": 2},
    "--varlen 0.25,1.0": {"varlen": [0.25, 1.0], "batch": 2},
    "--page-size 16": {"page_size": 16},
    "--seq-len-k 256": {"seq_len_k": 256},
}


@pytest.mark.parametrize("command", ["profile", "sweep"])
@pytest.mark.parametrize("words", FLAGS)
def test_a_flag_sets_its_field(flashbench, fake_run, command: str, words: str) -> None:
    done = flashbench(command, "-n", "128", "-e", "flash", *words.split())
    assert done.code == 0, done.err
    (study,) = fake_run.studies
    plain = Study(kind=command, seq_lens=[128], engines=["flash"], **FLAGS[words])
    for field in Study.__struct_fields__:
        if command == "profile" or field in FLAGS[words]:
            assert getattr(study, field) == getattr(plain, field)


# Words of a command line -> the beginning of the one-line error.
MISTAKES = {
    "--window wide": "--window takes none, a whole number from 0 up, such as 256 or 4k (4096), or two of",
    "--window 64 --window 64": "windows names 64 twice",
    "--causal --window 64 --window 64,9": "windows names two that are the same under a causal mask",
    "--softcap 0": "--softcap takes a number above 0, such as 50 or 0.5, not '0'",
    "--mask holes": "--mask takes none, bool, float or block, not 'holes'",
    "--mask bool --mask-axes kq": "mask_axes must be some of b, h, q, k in this order, not 'kq'",
    "--mask-axes k": "mask_axes say along what a mask varies: they need mask",
    "--mask-block 32": "mask_block is the size of a block mask's blocks: it needs mask block",
    "--mask block --mask-block 0": "--mask-block takes whole numbers from 1 up, such as 64 or 4k (4096)",
    "--mask block --mask-axes hk": "mask_axes of a block mask must have q and k, not be 'hk'",
    "--dropout 100%": "dropout must be at least 0 and below 1, not 1.0",
    "--dropout-seed 7": "dropout_seed chooses what dropout drops: it needs dropout",
    "--key-lengths none,1": "--key-lengths takes whole numbers such as 100 or 4k (4096), or shares such as",
    "--key-lengths 129": "key_lengths must be from 0 to 128, not [129]",
    "--key-lengths 0.5,1 --batch 3": "key_lengths must name 1 or batch (3) lengths, not 2",
    "--varlen 1.5": "varlen with a point are shares of the length, from 0 to 1, not 1.5",
    "--varlen 64,32": "varlen names rows, so seq_lens must be the longest (64), not 128",
    "--page-size 0": "--page-size takes whole numbers from 1 up, such as 64 or 4k (4096), not '0'",
    "--seq-len-k 0": "--seq-len-k takes whole numbers from 1 up, such as 64 or 4k (4096), not '0'",
    "--queries 2": "queries are those of a step of decoding: they need decode",
    "--decode --queries 17": "queries of a step must be from 1 to 16, not 17",
    "--decode --direction bwd": "decode is forward alone, not bwd",
    "--decode --seq-len-k 64": "decode reads as many keys as seq_lens says: it takes no seq_len_k",
    "--decode --varlen 0.5": "decode reads as many keys as seq_lens says: it takes no varlen",
    "--decode --causal-alignment top-left": "decode is of the last queries: causal_alignment must be",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_before_anything_runs(flashbench, fake_run, words: str) -> None:
    done = flashbench("profile", "-n", "128", *words.split())
    assert (done.code, done.out) == (2, "")
    error, *hints = done.err.splitlines()
    assert error.startswith(f"error: {MISTAKES[words]}")
    assert all(line.startswith("hint: ") for line in hints)
    assert fake_run.studies == []


def test_a_window_beside_full_attention_is_one_table(
    flashbench, fake_run, snapshot: SnapshotAssertion
) -> None:
    done = flashbench(
        *("profile", "-n", "4k,128k", "-e", "flash", "--causal", "--window", "none", "--window", "256")
    )
    assert done.code == 0
    assert done.out == snapshot


def test_decoding_is_a_table_of_bytes_a_second(
    flashbench, fake_run, snapshot: SnapshotAssertion, tmp_path: Path
) -> None:
    path = tmp_path / "decode.json"
    done = flashbench("profile", "--decode", "--batch", "8", "-e", "flash", "--save", str(path))
    assert done.code == 0
    assert done.out == snapshot
    assert "Can train?" not in done.out  # though the batch is above 1
    assert {row.problem.seqlen_q for row in load(path).measurements} == {1}
    assert all(row.rates and row.rates.gbps for row in load(path).measurements)


def test_a_sweep_with_features_says_so_above_each_heatmap(
    flashbench, fake_run, snapshot: SnapshotAssertion
) -> None:
    done = flashbench(
        *("sweep", "-n", "128", "--block-sizes", "32,auto", "--causal", "yes"),
        *("--window", "none", "--window", "64", "--softcap", "50"),
    )
    assert done.code == 0
    assert done.out == snapshot


def test_help_has_the_features_in_a_panel_of_their_own(flashbench) -> None:
    for command in ("profile", "sweep", "duel"):
        text = flashbench(command, "--help").out
        panel = text.split("Features")[1].split("Engines and blocks")[0]
        for flag in ("--window", "--softcap", "--alibi", "--sinks", "--mask", "--dropout", "--varlen"):
            assert flag in panel
    assert "Features" not in flashbench("tune", "--help").out
