"""The table of a plan, of made-up rates."""

from __future__ import annotations

import json

import pytest
from helpers.plans import plan_of
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.problem import AttentionProblem
from flashbench.report.plan import plan_json, plan_report

GIB = 2**30
PLANS = {
    "full": plan_of(AttentionProblem.of(2**22, num_heads=32, dtype="float32"), hosts=16, memory=GIB),
    "causal": plan_of(
        AttentionProblem.of(
            2**22,
            batch=2,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
            head_dim_v=64,
            dtype="bfloat16",
            causal=True,
            window=(2**16, 0),
        ),
        hosts=16,
        memory=20 * GIB,
        chunk=2**16,
    ),
    "forward": plan_of(AttentionProblem.of(2**20), hosts=4, directions=("fwd",), chunk=2**18),
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", PLANS)
def test_golden(name: str, width: int, snapshot: SnapshotAssertion) -> None:
    assert rendered(plan_report(PLANS[name]), width) == snapshot


def test_json_has_every_figure_in_bytes_and_seconds() -> None:
    plan = PLANS["causal"]
    document = json.loads(plan_json(plan))
    assert (document["schema_version"], document["hosts"], document["chunk"]) == (1, 16, plan.chunk)
    forward, backward = document["passes"]
    assert forward["seconds"] == plan.passes[0].seconds
    assert backward["memory"]["keys"] == plan.passes[1].memory.keys
    assert document["assumptions"] == plan.assumptions
