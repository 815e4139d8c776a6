"""AMD's zentorch: exact, refused if its meaning differs, and it names the right one of its three kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
from helpers.support import assert_engine_is_exact

from flashbench.engines import Ran, Settings, get_engine
from flashbench.problem import AttentionProblem

pytest.importorskip("zentorch")
ENGINE = get_engine("zentorch")
SETTINGS = Settings(num_threads=1)

PROBLEMS = [
    AttentionProblem.of(1, head_dim=1),
    AttentionProblem.of(33, seqlen_k=70, batch=2, num_heads=3, head_dim=17),
    AttentionProblem.of(128, causal=True),
    AttentionProblem.of(20, batch=2, num_heads=6, num_kv_heads=2, causal=True),
    AttentionProblem.of(13, seqlen_k=29, causal=True, causal_alignment="top-left"),
    AttentionProblem.of(1, seqlen_k=29, causal=True),  # bottom-right, and nothing is hidden
    AttentionProblem.of(20, softmax_scale=-0.2, head_dim=256),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_matches_the_oracle(problem: AttentionProblem, dtype: str) -> None:
    assert ENGINE.unsupported(problem, "fwd") is None
    assert_engine_is_exact(ENGINE, msgspec.structs.replace(problem, dtype=dtype), SETTINGS)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (AttentionProblem.of(8, head_dim_v=32), "needs head_dim_v equal to head_dim, not 32 and 64"),
        (AttentionProblem.of(8, seqlen_k=9, causal=True), "aligns top-left"),
        (AttentionProblem.of(8, causal=True, softmax_scale=-0.5), "needs a softmax_scale above 0, not -0.5"),
        (AttentionProblem.of(8, softmax_scale=0.0), "takes a softmax_scale of 0 for its default"),
    ],
)
def test_what_it_would_read_as_another_problem_is_refused(problem: AttentionProblem, reason: str) -> None:
    assert reason in (ENGINE.unsupported(problem, "fwd") or "")


def test_there_is_no_backward() -> None:
    assert "no backward" in (ENGINE.unsupported(AttentionProblem.of(8), "bwd") or "")


def kernel_with(zendnn: str, dtype: str) -> str:
    """The kernel that the engine names in a process with that environment, and whether it gave an lse."""
    program = (
        "from flashbench.engines import Settings, get_engine;"
        "from flashbench.problem import AttentionProblem;"
        f"engine = get_engine('zentorch'); problem = AttentionProblem.of(64, dtype={dtype!r});"
        "forward = engine.forward(problem, Settings(), *problem.make_inputs()[:3]);"
        "print(engine.kernel(problem, 'fwd').kernel, forward.lse is not None)"
    )
    environment = os.environ | {"ZENTORCH_USE_ZENDNN_SDPA": zendnn}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.grid
def test_an_lse_that_is_not_written_is_not_given() -> None:
    import torch

    if not torch.cpu._is_avx512_supported():
        pytest.skip("zentorch's own kernels need AVX-512")
    assert kernel_with("1", "float32") == "ZenDNN False"
    assert kernel_with("0", "float32") == "flash True"


def test_a_dtype_without_a_kernel_of_its_own_is_told_as_pytorchs() -> None:
    assert kernel_with("1", "float64") == "PyTorch's flash True"
    problem = AttentionProblem.of(64)
    assert ENGINE.kernel(problem, "fwd") == Ran(
        "PyTorch's flash",
        "zentorch has no kernel for this dtype on this CPU and ran PyTorch's flash attention",
    )


def test_looking_leaves_pytorch_as_it_was() -> None:
    import torch

    ENGINE.kernel(AttentionProblem.of(64, head_dim=48, dtype="float32"), "fwd")
    assert not torch.are_deterministic_algorithms_enabled()
