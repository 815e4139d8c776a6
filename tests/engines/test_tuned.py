"""The table of tuned blocks: used if valid, else ignored with one line, and never an error."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.support import assert_engine_is_exact
from helpers.tuned_entries import make_entry, write_table
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import flashbench
from flashbench.engines import Settings
from flashbench.engines.flash import tuned
from flashbench.engines.flash.engine import FlashEngine
from flashbench.engines.flash.plan import built_in_blocks
from flashbench.engines.flash.tuned import Entry, Table, encode, read_entries
from flashbench.problem import AttentionProblem

AUTO = Settings(num_threads=2)
ALL_KINDS = [
    make_entry(
        dtype=dtype, head_dim=head_dim, causal=causal, direction=direction, seqlen_from=seqlen, block_q=size
    )
    for dtype, head_dim, causal, direction, (seqlen, size) in product(
        ["float64", "float32"], [40, 64], [False, True], ["fwd", "bwd"], [(1, 1), (64, 13), (128, 70)]
    )
]


def auto(seqlen: int, direction: Any = "fwd", settings: Settings = AUTO, **sizes: Any) -> tuple[int, int]:
    found = FlashEngine().blocks(AttentionProblem.of(seqlen, **sizes), direction, settings)
    assert found is not None
    return found


def rule(seqlen: int, direction: Any = "fwd", **sizes: Any) -> tuple[int, int]:
    return built_in_blocks(AttentionProblem.of(seqlen, **sizes), direction)


def test_without_a_table_auto_is_the_built_in_rule(tuned_table: Path) -> None:
    assert auto(600) == rule(600)


@pytest.mark.parametrize("seqlen", [512, 513, 700, 1023])
def test_auto_is_what_the_table_says_within_its_band(tuned_table: Path, seqlen: int) -> None:
    write_table(tuned_table, make_entry())
    assert auto(seqlen) == (13, 21)


@pytest.mark.parametrize(
    ("seqlen", "sizes"),
    [
        (511, {}),
        (1024, {}),
        (600, {"dtype": "float32"}),
        (600, {"causal": True}),
        (600, {"head_dim": 32}),
        (600, {"direction": "bwd"}),
        (600, {"head_dim_v": 32}),
        (20, {"seqlen_k": 600}),
        (511, {"seqlen_k": 600}),
        (600, {"window": (64, 64)}),
        (600, {"softcap": 50.0}),
        (600, {"mask": "bool"}),
    ],
)
def test_auto_is_the_built_in_rule_outside_every_key(
    tuned_table: Path, seqlen: int, sizes: dict[str, Any]
) -> None:
    write_table(tuned_table, make_entry())
    assert auto(seqlen, **sizes) == rule(seqlen, **sizes)


def test_an_entry_won_with_many_heads_is_not_used_with_few(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry(heads_from=8))
    assert auto(600, num_heads=7) == rule(600, num_heads=7)
    assert auto(600, num_heads=8, num_kv_heads=2) == rule(600, num_heads=8, num_kv_heads=2)
    assert auto(600, num_heads=8) == auto(600, num_heads=4, batch=2) == (13, 21)


def test_what_fewer_threads_found_is_not_used_where_there_are_more(
    tuned_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tuned_table, make_entry(threads=2))
    monkeypatch.setattr(tuned, "available_cores", lambda: 3)
    assert auto(600) == rule(600)
    monkeypatch.setattr(tuned, "_read", None)
    monkeypatch.setattr(tuned, "available_cores", lambda: 2)
    assert auto(600) == (13, 21)


def test_blocks_that_a_caller_gives_win(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry())
    assert auto(600, settings=Settings(48, 40)) == (48, 40)
    # A tuned block_q is valid only with its own block_k.
    assert auto(600, settings=Settings(block_q=48)) == (48, rule(600)[1])
    assert auto(600, settings=Settings(block_k=40)) == (rule(600)[0], 40)


def test_blocks_are_of_the_path_that_they_were_tuned_on(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry(dtype="bfloat16", path="convert"))
    of = {"dtype": "bfloat16"}
    assert auto(600, settings=AUTO._replace(path="convert"), **of) == (13, 21)
    other = "dot_bf16-emulated"
    expected = built_in_blocks(AttentionProblem.of(600, **of), "fwd", other)
    assert auto(600, settings=AUTO._replace(path=other), **of) == expected


def test_the_table_is_read_once_in_a_process(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry())
    assert auto(600) == (13, 21)
    write_table(tuned_table, make_entry(block_q=40))
    assert auto(600) == (13, 21)


@pytest.mark.parametrize("seqlen", [1, 63, 64, 100, 200])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_results_of_tuned_blocks_are_exact(tuned_table: Path, seqlen: int, causal: bool, dtype: Any) -> None:
    write_table(tuned_table, *ALL_KINDS)
    for sizes in ({}, {"num_heads": 4, "num_kv_heads": 2, "head_dim": 40}, {"seqlen_k": 130}):
        problem = AttentionProblem.of(seqlen, causal=causal, dtype=dtype, **sizes)
        assert_engine_is_exact(FlashEngine(), problem, AUTO)


def test_results_of_tuned_blocks_have_the_same_bits_for_any_number_of_threads(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry(), make_entry(direction="bwd"))
    q, k, v, do = AttentionProblem.of(600, num_heads=3).make_inputs()
    results = []
    for threads in (1, 2, 5):
        o, lse = flashbench.attention(q, k, v, num_threads=threads, return_lse=True)
        results.append((o, lse, *flashbench.attention_backward(do, q, k, v, o, lse, num_threads=threads)))
    for other in results[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_a_table_says_the_same_after_it_was_written(tuned_table: Path) -> None:
    write_table(tuned_table, *ALL_KINDS)
    assert read_entries(tuned_table) == (ALL_KINDS, None)


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_any_byte_changed_is_ignored_or_means_the_same(
    tuned_table: Path, place: float, byte: int
) -> None:
    content = bytearray(encode([make_entry()]))
    content[int(place * len(content))] = byte
    assert_ignored_or_the_same(tuned_table, bytes(content))


@given(length=st.integers(0, 2000), rest=st.binary(max_size=20))
@hypothesis_settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_off_or_overwritten_is_ignored(tuned_table: Path, length: int, rest: bytes) -> None:
    assert_ignored_or_the_same(tuned_table, encode([make_entry()])[:length] + rest)


def assert_ignored_or_the_same(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    entries, ignored = read_entries(path)
    if ignored is None:
        assert entries == [make_entry()]
    else:
        assert entries == []
        assert "\n" not in ignored
        assert str(path) in ignored


def forged(path: Path, **changes: Any) -> None:
    """A valid table with some fields changed."""
    table = msgspec.json.decode(encode([make_entry()]), type=Table)
    table = msgspec.structs.replace(table, **changes)
    table = msgspec.structs.replace(table, checksum=tuned._checksum(table))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode(table))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cpu": "Another CPU, zen9, avx512"}, "is of another CPU (Another CPU, zen9, avx512)"),
        ({"kernels": "0" * 64}, "is of another flashbench, whose kernels differ"),
        ({"schema_version": 3}, "was written by a newer flashbench (schema_version 3, not 2)"),
        ({"schema_version": 1}, "was written by another flashbench (schema_version 1, not 2)"),
    ],
)
def test_a_foreign_or_stale_table_is_ignored_in_a_line_that_says_why(
    tuned_table: Path, changes: dict[str, Any], reason: str
) -> None:
    forged(tuned_table, **changes)
    with pytest.warns(RuntimeWarning) as caught:
        assert auto(600) == rule(600)
    assert [str(each.message) for each in caught] == [
        f"tuned block sizes are not used: {tuned_table} {reason}; flashbench tune makes them anew"
    ]


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b"7", b'"x"'])
def test_what_is_no_table_at_all_is_damaged(tuned_table: Path, content: bytes) -> None:
    tuned_table.parent.mkdir()
    tuned_table.write_bytes(content)
    assert read_entries(tuned_table) == ([], f"{tuned_table} is damaged")


def test_sizes_beyond_reason_are_damage(tuned_table: Path) -> None:
    content = encode([make_entry()]).replace(b'"block_k": 21', b'"block_k": 1000000000')
    tuned_table.parent.mkdir()
    tuned_table.write_bytes(content)
    assert read_entries(tuned_table) == ([], f"{tuned_table} is damaged")


def test_a_table_that_cannot_be_read_is_ignored(tuned_table: Path) -> None:
    tuned_table.mkdir(parents=True)
    entries, ignored = read_entries(tuned_table)
    assert entries == []
    assert ignored is not None
    assert ignored.startswith(f"{tuned_table} cannot be read (")


def test_it_is_said_once_in_a_process_and_in_one_line(tuned_table: Path) -> None:
    tuned_table.parent.mkdir()
    tuned_table.write_text("{")
    program = (
        "import numpy as np, flashbench\n"
        "x = np.ones((1, 1, 600, 64))\n"
        "for _ in range(3):\n"
        "    o, lse = flashbench.attention(x, x, x, return_lse=True)\n"
        "    flashbench.attention_backward(o, x, x, x, o, lse)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == (
        f"{tuned_table}:0: RuntimeWarning: tuned block sizes are not used: {tuned_table} is damaged; "
        "flashbench tune makes them anew\n"
    )


def test_a_warning_made_an_error_stops_one_call_only(tuned_table: Path) -> None:
    tuned_table.parent.mkdir()
    tuned_table.write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="is damaged"):
            auto(600)
        assert auto(600) == rule(600)


def test_another_target_has_another_table(tuned_table: Path) -> None:
    program = "from flashbench.engines.flash.tuned import table_path; print(table_path())"
    other = "nehalem" if platform.machine() in ("x86_64", "AMD64") else "cortex-a53"
    environment = {**os.environ, "NUMBA_CPU_NAME": other, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    other = Path(done.stdout.strip())
    assert other.parent == tuned_table.parent
    assert other != tuned_table


def test_the_table_is_in_the_cache_directory_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLASHBENCH_TUNED_DIR")
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", str(tmp_path))
    assert tuned.table_path().parent == tmp_path / "tuned"


def test_an_entry_names_its_key() -> None:
    entry: Entry = make_entry(seqlen_from=1024)
    assert entry.key == ("float64", 64, False, "fwd", 11)
    assert tuned.band_of(1023) == 10 < tuned.band_of(1024) == tuned.band_of(2047) == 11
