"""The NumPy engine: exact, with the memory it promises, on the number of threads it is given."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from helpers.support import assert_engine_is_exact
from threadpoolctl import threadpool_info

from flashbench.engines import Settings, get_engine
from flashbench.measure.memory import track, workspace_peak
from flashbench.problem import AttentionProblem, Direction

ENGINE = get_engine("numpy")
# With several threads OpenBLAS allocates 512 KiB per product for itself. The engine cannot know that.
SETTINGS = Settings(num_threads=1)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "problem",
    [
        AttentionProblem.of(1, head_dim=1),
        AttentionProblem.of(33, batch=2, num_heads=3, head_dim=17, head_dim_v=5),
        AttentionProblem.of(128, causal=True),
        AttentionProblem.of(20, batch=2, num_heads=6, num_kv_heads=2, causal=True),
        AttentionProblem.of(13, seqlen_k=29, causal=True),
        AttentionProblem.of(29, seqlen_k=13, causal=True, causal_alignment="top-left"),
        AttentionProblem.of(29, seqlen_k=13, causal=True, num_heads=4, num_kv_heads=1),
        AttentionProblem.of(20, softmax_scale=-0.2),
    ],
    ids=str,
)
def test_matches_the_oracle(problem: AttentionProblem, dtype: str) -> None:
    assert_engine_is_exact(ENGINE, msgspec.structs.replace(problem, dtype=dtype))


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
@pytest.mark.parametrize(
    "problem",
    [
        AttentionProblem.of(512),
        AttentionProblem.of(512, causal=True),
        AttentionProblem.of(512, num_heads=4, num_kv_heads=2, batch=2, dtype="float32"),
        AttentionProblem.of(300, seqlen_k=700, num_heads=2, head_dim=100, head_dim_v=10),
        AttentionProblem.of(400, seqlen_k=400, num_heads=4, num_kv_heads=1, head_dim=256, causal=True),
        AttentionProblem.of(512, num_heads=4, num_kv_heads=2, batch=2, dtype="bfloat16"),
        AttentionProblem.of(300, seqlen_k=700, num_heads=2, head_dim=100, head_dim_v=10, dtype="bfloat16"),
        AttentionProblem.of(400, seqlen_k=400, num_heads=4, num_kv_heads=1, head_dim=256, dtype="float16"),
    ],
    ids=str,
)
def test_allocates_what_workspace_bytes_says(problem: AttentionProblem, direction: Direction) -> None:
    pytest.importorskip("memray")
    q, k, v, do = problem.make_inputs()
    kept = ENGINE.forward(problem, SETTINGS, q, k, v, keep=True)
    outputs: list[object] = []

    def fwd_bwd() -> None:
        forward = ENGINE.forward(problem, SETTINGS, q, k, v, keep=True)
        outputs.extend(forward[:2])
        outputs.append(ENGINE.backward(problem, SETTINGS, do, q, k, v, forward))

    calls: dict[str, Callable[[], None]] = {
        "fwd": lambda: outputs.append(ENGINE.forward(problem, SETTINGS, q, k, v)),
        "bwd": lambda: outputs.append(ENGINE.backward(problem, SETTINGS, do, q, k, v, kept)),
        "fwd_bwd": fwd_bwd,
    }
    calls[direction]()
    outputs.clear()
    measured = workspace_peak(track(calls[direction]), problem.output_bytes(direction))
    expected = ENGINE.workspace_bytes(problem, direction, SETTINGS)
    assert expected is not None
    assert abs(measured - expected) <= max(4096, 0.05 * measured)


def test_p_is_kept_only_when_asked() -> None:
    problem = AttentionProblem.of(4)
    q, k, v, _ = problem.make_inputs()
    assert ENGINE.forward(problem, SETTINGS, q, k, v).saved is None
    assert ENGINE.forward(problem, SETTINGS, q, k, v, keep=True).saved.shape == (1, 1, 1, 4, 4)


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_threads_are_limited_only_during_the_call_and_only_when_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = AttentionProblem.of(4)
    q, k, v, _ = problem.make_inputs()
    before, during = blas_threads(), []
    exp = np.exp
    monkeypatch.setattr(
        "flashbench.engines.peers.numpy.np.exp", lambda *a, **b: during.append(blas_threads()) or exp(*a, **b)
    )
    ENGINE.forward(problem, Settings(num_threads=1), q, k, v)
    ENGINE.forward(problem, Settings(), q, k, v)
    assert during == [{1}, before]
    assert blas_threads() == before


def test_runs_everything_and_has_no_blocks() -> None:
    problem = AttentionProblem.of(4)
    assert ENGINE.unsupported(problem, "bwd") is None
    assert ENGINE.blocks(problem, "fwd", SETTINGS) is None
