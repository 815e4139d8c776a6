"""What follows from tests of inference: rates, Amdahl's bound, the longest context, equal tokens."""

from __future__ import annotations

import msgspec
import pytest
from helpers.fake_inference import CACHE, WEIGHTS, make_inference, make_test

from flashbench.analysis.inference import longest_context, tokens_per_second
from flashbench.analysis.whole_models import amdahl_bound, base_of, measured_ratio
from flashbench.errors import ConfigError
from flashbench.results.record import Time
from flashbench.studies.infer.agreement import disagreement
from flashbench.studies.infer.models import BUILT_IN, settings_of
from flashbench.studies.infer.study import InferPoint, InferStudy


def test_a_rate_counts_every_sequence_and_spans_the_processes() -> None:
    time = Time(samples_ns=[[10, 20, 30], [40, 50, 60]], median_ns=35, low_ns=20, high_ns=50)
    rate = tokens_per_second(make_test("sdpa", "decode", 0, batch=4, time=time))
    # Two processes: their range holds the median with one half.
    assert rate == pytest.approx((4 * 32e9 / 35, 4 * 32e9 / 50, 4 * 32e9 / 20, 0.5))
    assert tokens_per_second(make_test("sdpa", "decode", 0, time=None)) is None


def test_ratio_and_amdahls_bound() -> None:
    tests = make_inference().inference
    flash = next(x for x in tests if (x.attention, x.test, x.depth) == ("flash", "prefill", 4000))
    base = base_of(flash, tests)
    # sdpa: 60 ms and 200 ms of attention; flash: 60 ms and 100 ms. Nothing else differs, so both are equal.
    assert measured_ratio(flash, base) == pytest.approx(260 / 160)
    assert amdahl_bound(flash, base) == pytest.approx(260 / 160)
    assert amdahl_bound(flash, None) is None
    assert base_of(msgspec.structs.replace(flash, depth=1), tests) is None


def test_the_longest_context_fills_the_budget() -> None:
    prefills = [make_test("eager", "prefill", depth) for depth in (0, 1000, 4000)]
    budget = WEIGHTS + 10_000 + 7_000 * (CACHE + 5000)
    assert longest_context(prefills, budget) == pytest.approx(7000, abs=1)
    assert longest_context(prefills[:1], budget) is None
    assert longest_context(prefills, WEIGHTS) == 0


def test_tokens_may_differ_where_rounding_decides_and_after() -> None:
    assert disagreement([1, 2, 3], [1, 2, 3], [0.3, 0.3, 0.3], "float32") is None
    assert disagreement([1, 9, 8], [1, 2, 3], [0.3, 1e-5, 0.3], "float32") is None
    assert disagreement([1, 9, 3], [1, 2, 3], [0.3, 0.02, 0.3], "bfloat16") is None
    reason = disagreement([1, 9, 3], [1, 2, 3], [0.3, 0.2, 0.3], "bfloat16")
    assert reason == "chose token 9 where the first attention chose 2, by a lead of 20 %"


def test_points_keep_arms_together_and_depths_in_order() -> None:
    study = InferStudy(attentions=["sdpa", "flash"], prompt=[64], generate=[8], depths=[512, 0])
    assert study.points()[:3] == [
        InferPoint("llama-160m", "float32", "prefill", 64, 0, "sdpa"),
        InferPoint("llama-160m", "float32", "prefill", 64, 0, "flash"),
        InferPoint("llama-160m", "float32", "prefill", 64, 512, "sdpa"),
    ]
    assert len(study.points()) == 8


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attentions": ["flush"]}, "unknown attention 'flush'"),
        ({"dtypes": ["float64"]}, "unknown dtype"),
        ({"prompt": [], "generate": []}, "both empty"),
        ({"prompt": [0]}, "prompt must be at least 1"),
        ({"depths": [-1]}, "depths must be at least 0"),
        ({"depths": [1, 1]}, "each value once"),
        ({"models": []}, "at least one"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"seed": -1}, "seed"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"memory_budget_bytes": 0}, "memory_budget_bytes"),
    ],
)
def test_settings_that_break_a_rule(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        InferStudy(**settings)


def test_models_are_built_in_or_files(tmp_path) -> None:
    assert settings_of("llama-1b") == BUILT_IN["llama-1b"]
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    assert settings_of(str(tmp_path))["hidden_size"] == 8
    assert settings_of(str(tmp_path / "config.json"))["hidden_size"] == 8
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    for name, words in (
        ("other.json", "no model_type"),
        ("broken.json", "as JSON"),
        ("none", "unknown model"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings_of(str(tmp_path / name))
