"""The tables of `flashbench train`, from made-up steps."""

from __future__ import annotations

import msgspec
import pytest
from helpers.fake_training import ARMS, every_kind, make_step, make_training
from helpers.rendering import rendered

from flashbench.report.train import train_report


@pytest.mark.parametrize("width", [80, 120])
def test_a_training_report(snapshot, width: int) -> None:
    assert rendered(train_report(every_kind()), width) == snapshot


def test_nothing_is_cut_at_80_columns() -> None:
    text = rendered(train_report(every_kind()), 80)
    for arm in ARMS:
        assert f" {arm} " in text
    assert "…" not in text
    rows = [line for line in text.splitlines() if "/" in line and "x " in line]
    assert rows
    assert all(len(line.split()) in (8, 9) for line in rows)


def test_a_model_without_softmax_attention_says_so_once() -> None:
    text = rendered(train_report(every_kind()), 120)
    assert text.count("n/a: ProbSparse instead of it: another model") == 1


def test_failed_steps_say_where_and_why() -> None:
    text = rendered(train_report(every_kind()), 120)
    assert "flash at 4096: crashed: ended by signal 9 (SIGKILL)" in text
    assert "standard at 4096: too large: needs some 9.9 GiB, 1.0 GiB are there" in text
    assert "torch-math at 4096: wrong: loss 2 before any step" in text


def test_verdicts_say_faster_same_and_slower() -> None:
    steps = [make_step("flash", 512), make_step("standard", 512)]
    slow = make_step("flash", 1024)
    steps += [slow, msgspec.structs.replace(slow, attention="standard")]
    steps += [make_step("standard", 2048), make_step("flash", 2048)]
    steps[-1] = msgspec.structs.replace(steps[-1], time=make_step("torch-math", 4096).time)
    text = rendered(train_report(make_training(steps)), 120)
    assert "faster: PatchTST 512 2.00x" in text  # (20 + 10) / (5 + 10)
    assert "the same within 5 %: PatchTST 1024 1.00x" in text
    assert "slower: PatchTST 2048 0.24x" in text  # 360 ms against 1520


def test_no_step_at_all() -> None:
    assert "no point was measured" in rendered(train_report(make_training([])))
