"""The output of `flashbench engines`, for made-up engines."""

from __future__ import annotations

import json

import pytest
from helpers.rendering import rendered
from syrupy.assertion import SnapshotAssertion

from flashbench.dtypes import DTYPES
from flashbench.report.engines import engines_json, engines_report
from flashbench.studies.engine_list import EngineFacts
from flashbench.studies.engine_probe import OPTIONAL, backward_of

ENGINES = [
    EngineFacts(
        name="flash",
        state="ready",
        library="numba",
        version="0.61.0",
        summary="tiled, online softmax, backward by recomputation (Numba, SIMD)",
        layout="bhsd",
        paths={"float16": "convert", "bfloat16": "amx", "float32": "fma", "float64": "fma"},
    ),
    EngineFacts(
        name="torch-flash",
        state="ready",
        library="torch",
        version="2.13.0+cpu",
        summary="PyTorch's CPU flash attention, or what PyTorch falls back to",
        layout="bhsd",
        lacks={
            "bottom_right": "PyTorch's is_causal aligns top-left",
            "block_mask": "takes a bool or float mask",
            "float_mask_bwd": "has no gradient of it",
            "varlen_bwd": "is forward alone",
            "sinks": "the engine has no sinks",
        },
        notes={"head_dim_v": "PyTorch fell back to its math kernel: head_dim_v differs from head_dim"},
    ),
    EngineFacts(
        name="zentorch",
        state="not installed",
        reason="engine 'zentorch' needs the package 'zentorch', which is not installed",
        hint="pip install 'flashbench[zentorch]'",
        library="zentorch",
    ),
    EngineFacts(
        name="onnxruntime",
        state="ready",
        library="onnxruntime",
        version="1.32.0",
        summary="ONNX Runtime's CPU MultiHeadAttention operator, forward only",
        layout="bshd",
        lacks={
            "fwd_bfloat16": "takes float32 and float16",
            "fwd_float64": "takes float32",
            **dict.fromkeys((f"bwd_{dtype}" for dtype in DTYPES), "has no backward"),
            "bottom_right": "needs equal lengths",
            "top_left": "needs equal lengths",
            "lse": "its forward in float32 gives none",
            **dict.fromkeys(map(backward_of, OPTIONAL), "has no backward"),
            **dict.fromkeys(("float_mask", "block_mask", "dropout"), "is not there"),
        },
        notes={"causal": "ONNX Runtime ran its unfused kernel"},
    ),
    EngineFacts(name="mine", state="broken", reason="killed by SIGSEGV in its first call"),
    EngineFacts(
        name="yours",
        state="ready",
        summary="full attention alone",
        lacks=dict.fromkeys(
            ("gqa", "causal", "bottom_right", "top_left", "head_dim_v", *OPTIONAL), "is not there"
        ),
    ),
]


@pytest.mark.parametrize("width", [80, 120])
def test_table_of_engines(width: int, snapshot: SnapshotAssertion) -> None:
    text = rendered(engines_report(ENGINES), width)
    assert max(map(len, text.splitlines())) <= width
    assert text == snapshot


def test_json_holds_every_reason() -> None:
    document = json.loads(engines_json(ENGINES))
    assert document[3]["lacks"]["fwd_float64"] == "takes float32"
    assert document[1]["notes"]["head_dim_v"].startswith("PyTorch fell back")
    assert [each["state"] for each in document].count("ready") == 4
    assert document[2]["hint"] == "pip install 'flashbench[zentorch]'"


def test_a_name_with_brackets_is_a_name_and_no_markup() -> None:
    text = rendered(engines_report([EngineFacts(name="[bold]mine[/bold]", state="broken", reason="[red]no")]))
    assert text.count("[bold]mine[/bold]") == 2
    assert "[red]no" in text
