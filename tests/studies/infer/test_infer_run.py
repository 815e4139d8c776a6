"""Whole models in real processes: every arm is measured, chooses the same tokens, and a run can go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from flashbench.errors import ConfigError, ResultsError
from flashbench.results.record import Results
from flashbench.studies.arms.session import foretold_bytes
from flashbench.studies.infer import InferStudy, run
from flashbench.studies.infer.row import InferRow
from flashbench.studies.infer.run import _compare_tokens
from flashbench.studies.infer.study import InferPoint
from flashbench.studies.infer.workload import InferWorkload
from flashbench.studies.runner import Interrupted, failed

TINY = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return str(tmp_path)


def study(model: str, **settings: Any) -> InferStudy:
    chosen = {"prompt": [12], "generate": [3], "depths": [0, 16], "threads": 1, "rounds": 1, "repeats": 2}
    return InferStudy(models=[model], **(chosen | settings))


def test_every_arm_is_measured(tiny: str) -> None:
    steps: list[str] = []
    results = run(study(tiny), command=["flashbench"], on_progress=lambda step: steps.append(step.label))
    assert not failed(results)
    assert results.complete
    assert len(results.inference) == 12
    for row in results.inference:
        assert (row.status, row.reason) == ("ok", None)
        assert row.time is not None
        assert len(row.time.samples_ns[0]) == 2
        assert row.parameters == row.weight_bytes // 4
        assert row.cache_bytes == 2 * 2 * 2 * 8 * 4 * row.depth  # keys and values, layers, heads, head_dim
        assert row.processes[0].attention_calls == 2 * (1 if row.test == "prefill" else 3)
        assert 0 < row.attention_share < 1
        assert row.peak_bytes > 0
    assert len({tuple(row.compared_tokens) for row in results.inference if row.test == "prefill"}) == 1
    assert set(results.processes) == {"sdpa", "eager", "flash"}
    assert steps[-1] == "done"


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("test", ["prefill", "decode"])
def test_a_call_leaves_the_cache_as_it_was(tiny: str, attention: str, test: str) -> None:
    made = InferWorkload(InferPoint(tiny, "float32", test, 5, 16, attention), study(tiny))
    for _ in range(2):
        made.call()
        assert made._cache.get_seq_length() == 16
    empty = InferWorkload(InferPoint(tiny, "float32", test, 5, 0, attention), study(tiny))
    empty.call()
    assert empty._cache.get_seq_length() == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tiny: str, dtype: str) -> None:
    made = InferWorkload(InferPoint(tiny, dtype, "decode", 2, 8, "flash"), study(tiny))
    made.call()
    assert made.describe()["weight_bytes"] == 2 * made.describe()["parameters"]
    assert made.check()["note"] is None


def test_a_model_without_sdpa_is_unsupported_there(tmp_path: Path) -> None:
    oss = TINY | {
        "model_type": "gpt_oss", "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1,
        "sliding_window": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "experts_implementation": "eager",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(oss))
    results = run(study(str(tmp_path), generate=[], depths=[0], memory=False), command=[])
    rows = {row.attention: row for row in results.inference}
    assert rows["sdpa"].status == "unsupported"
    assert rows["sdpa"].reason == "Transformers has no sdpa attention for this model"
    assert rows["eager"].status == rows["flash"].status == "ok"
    assert rows["eager"].compared_tokens == rows["flash"].compared_tokens


def test_other_tokens_are_wrong() -> None:
    rows = [
        InferRow(point=InferPoint("m", "float32", "prefill", 8, 0, arm), batch=1, threads=1)
        for arm in ("sdpa", "flash")
    ]
    for row, tokens in zip(rows, ([3, 4], [3, 5]), strict=True):
        row.facts = {"compared_tokens": tokens, "compared_leads": [0.5, 0.25]}
    _compare_tokens(rows)
    assert [row.status for row in rows] == ["ok", "wrong"]
    assert rows[1].reason == "chose token 5 where the first attention chose 4, by a lead of 25 %"


def test_an_interrupted_run_goes_on_where_it_stopped(tiny: str) -> None:
    asked = study(tiny, attentions=["sdpa", "flash"], generate=[], depths=[0], rounds=2)
    kept: list[Results] = []

    def stop(step: Any) -> None:
        if "round 2" in step.label:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run(asked, command=[], on_progress=stop, on_results=kept.append)
    earlier = caught.value.results
    assert not earlier.complete
    assert [len(row.time.samples_ns) for row in earlier.inference] == [1, 1]
    labels: list[str] = []
    results = run(asked, command=[], earlier=earlier, on_progress=lambda step: labels.append(step.label))
    assert not any("memory" in label or "round 1" in label for label in labels)
    for row, before in zip(results.inference, earlier.inference, strict=True):
        assert len(row.time.samples_ns) == 2
        assert row.time.samples_ns[0] == before.time.samples_ns[0]
        assert row.peak_bytes == before.peak_bytes
    with pytest.raises(ResultsError, match="another study"):
        run(msgspec.structs.replace(asked, batch=2), command=[], earlier=earlier)


def test_a_budget_of_memory(tiny: str) -> None:
    """Memory is foretold from that at a smaller depth, and grows with the depth."""
    asked = study(tiny, attentions=["sdpa"], generate=[], depths=[0, 1000], memory_budget_bytes=10**6)
    small, large = run(asked, command=[]).inference
    assert small.status == "ok"
    assert large.status == "too_large"
    assert large.reason.endswith("976.6 KiB are there: foretold, not tried")
    assert large.time is None


def test_weights_do_not_grow_with_the_depth() -> None:
    def row(depth: int, **known: Any) -> InferRow:
        point = InferPoint("m", "float32", "decode", 10, depth, "flash")
        return InferRow(point=point, batch=1, threads=1, **known)

    small = row(10, peak_bytes=20, facts={"weight_bytes": 5000, "cache_bytes": 80})
    assert foretold_bytes(row(90), [small]) == 5000 + 500
    assert foretold_bytes(row(90), []) == 0


def test_an_unknown_model_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        run(study("no such model"), command=[])


def test_transformers_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Callable[..., Any] = sys.modules["flashbench.studies.infer.run"]
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(Exception, match="transformers") as caught:
        run(study("llama-160m"), command=[])
    assert caught.value.hint == "pip install 'flashbench[hf]'"
