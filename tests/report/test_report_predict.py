"""The table of what fits, of made-up figures."""

from __future__ import annotations

import json

import pytest
from helpers.rendering import rendered
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from flashbench.problem import AttentionProblem
from flashbench.report.predict import predict_json, predict_report
from flashbench.studies.memory_fit.predict import Fit, Prediction, Predictions

GIB = 1024**3
REFUSED = Fit(needed_bytes=None, workspace_bytes=None, fits=None, reason="it has no backward")
UNKNOWN = replace(REFUSED, reason=None)


def fit(gib: float) -> Fit:
    return Fit(needed_bytes=int(gib * GIB), workspace_bytes=int(gib * GIB) // 2, fits=gib <= 16)


def row(seqlen: int, engine: str, forward: Fit, training: Fit, longest: int | None) -> Prediction:
    return Prediction(
        problem=AttentionProblem.of(seqlen, num_heads=8),
        engine=engine,
        block_q=None,
        block_k=None,
        forward=forward,
        training=training,
        longest_training_seqlen=longest,
    )


PREDICTIONS = Predictions(
    budget_bytes=16 * GIB,
    free=False,
    predictions=[
        row(4096, "flash", fit(0.0625), fit(0.125), 523_241),
        row(4096, "standard", fit(1.06), fit(2.13), 11_457),
        row(4096, "onnxruntime", fit(2.0), REFUSED, None),
        row(65536, "flash", fit(1.0), fit(2.0), 523_241),
        row(65536, "standard", fit(257.0), fit(514.0), 11_457),
        row(65536, "torch-math", UNKNOWN, UNKNOWN, None),
    ],
)


@pytest.mark.parametrize("width", [80, 120])
def test_golden(width: int, snapshot: SnapshotAssertion) -> None:
    assert rendered(predict_report(PREDICTIONS), width) == snapshot


def test_decoding_and_free_memory_are_named() -> None:
    problem = AttentionProblem.of(1, seqlen_k=2048)
    step = replace(PREDICTIONS.predictions[0], problem=problem, longest_training_seqlen=None)
    text = rendered(predict_report(replace(PREDICTIONS, free=True, predictions=[step])))
    assert "Does it fit in 16.00 GiB of free memory?" in text
    assert "decode 1 query, float64" in text
    assert "Keys" in text
    assert "2048" in text


def test_block_sizes_have_a_column_where_there_are_several() -> None:
    blocked = replace(PREDICTIONS.predictions[0], block_q=32, block_k=64)
    text = rendered(predict_report(replace(PREDICTIONS, predictions=[PREDICTIONS.predictions[0], blocked])))
    assert "auto" in text
    assert "32 x 64" in text


def test_json_has_every_figure_in_bytes() -> None:
    document = json.loads(predict_json(PREDICTIONS))
    assert (document["schema_version"], document["budget_bytes"]) == (1, 16 * GIB)
    assert document["predictions"][1]["training"]["fits"] is True
    assert document["predictions"][2]["training"]["reason"] == "it has no backward"
