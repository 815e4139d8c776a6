"""PyTorch's flash attention through our protocol: exact, without copies, refused if its meaning differs."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest
from helpers.support import assert_close, assert_engine_is_exact

from flashbench.engines import Engine, Ran, Settings, get_engine
from flashbench.problem import AttentionProblem, Direction, Inputs
from flashbench.reference import attention_backward_reference, attention_reference

torch = pytest.importorskip("torch")
ENGINE = get_engine("torch-flash")
SETTINGS = Settings(num_threads=1)

PROBLEMS = [
    AttentionProblem.of(1, head_dim=1),
    AttentionProblem.of(33, seqlen_k=70, batch=2, num_heads=3, head_dim=17),
    AttentionProblem.of(128, causal=True),
    AttentionProblem.of(20, batch=2, num_heads=6, num_kv_heads=2, causal=True),
    AttentionProblem.of(13, seqlen_k=29, causal=True, causal_alignment="top-left"),
    AttentionProblem.of(29, seqlen_k=13, causal=True, causal_alignment="top-left"),
    AttentionProblem.of(20, softmax_scale=-0.2, head_dim=256),
    AttentionProblem.of(1, seqlen_k=40, num_heads=2, causal=True),  # bottom-right, and nothing is hidden
    AttentionProblem.of(21, seqlen_k=34, num_heads=4, num_kv_heads=2, head_dim=12, head_dim_v=7),
    AttentionProblem.of(21, head_dim=12, head_dim_v=7, causal=True),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_matches_the_oracle(problem: AttentionProblem, dtype: str) -> None:
    assert ENGINE.unsupported(problem, "bwd") is None
    assert_engine_is_exact(ENGINE, msgspec.structs.replace(problem, dtype=dtype), SETTINGS)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "every-other-number": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "transposed": lambda x: x.swapaxes(2, 3).copy().swapaxes(2, 3),
    "sequence-first": lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
    "backwards": lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
    "read-only": read_only,
    "misaligned": lambda x: np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_gives_the_same_answer(layout) -> None:
    problem = AttentionProblem.of(9, seqlen_k=12, num_heads=2, head_dim=6)
    plain = problem.make_inputs()
    q, k, v, do = Inputs(*map(layout, plain))
    forward = ENGINE.forward(problem, SETTINGS, q, k, v)
    assert_close(forward.o, attention_reference(problem, *plain[:3])[0], 1e-13)
    kept = forward._replace(o=layout(forward.o))
    gradients = ENGINE.backward(problem, SETTINGS, do, q, k, v, kept)
    expected = attention_backward_reference(problem, plain.do, *plain[:3])
    for ours, theirs in zip(gradients, expected, strict=True):
        assert_close(ours, theirs, 1e-13)


def test_arrays_that_torch_can_read_are_not_copied() -> None:
    from flashbench.engines.peers.torch_tensors import tensor

    x = np.zeros((1, 2, 3, 8))[..., 2:6]
    assert tensor(x).data_ptr() == x.ctypes.data


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (AttentionProblem.of(8, seqlen_k=9, causal=True), "aligns top-left"),
        (AttentionProblem.of(8, causal=True, softmax_scale=0.0), "needs a softmax_scale above 0, not 0.0"),
        (AttentionProblem.of(8, causal=True, softmax_scale=-0.5), "needs a softmax_scale above 0, not -0.5"),
    ],
)
def test_what_torch_would_read_as_another_problem_is_refused(problem: AttentionProblem, reason: str) -> None:
    assert reason in (ENGINE.unsupported(problem, "fwd") or "")


def test_an_older_torch_does_not_share_key_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.8.0+cpu")
    assert "PyTorch 2.9" in (
        ENGINE.unsupported(AttentionProblem.of(8, num_heads=2, num_kv_heads=1), "fwd") or ""
    )
    assert ENGINE.unsupported(AttentionProblem.of(8, num_heads=2), "fwd") is None


def test_each_call_sets_its_own_thread_count() -> None:
    problem = AttentionProblem.of(4)
    q, k, v, _ = problem.make_inputs()
    before = torch.get_num_threads()
    try:
        ENGINE.forward(problem, Settings(num_threads=2), q, k, v)
        assert torch.get_num_threads() == 2
        ENGINE.forward(problem, Settings(), q, k, v)
        assert torch.get_num_threads() == (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
    finally:
        torch.set_num_threads(before)


def operators_of(engine: Engine, problem: AttentionProblem, direction: Direction) -> set[str]:
    """The attention operators that PyTorch's profiler reports for a call in that direction."""
    q, k, v, do = problem.make_inputs()
    kept = engine.forward(problem, SETTINGS, q, k, v, keep=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        if direction == "fwd":
            engine.forward(problem, SETTINGS, q, k, v)
        else:
            engine.backward(problem, SETTINGS, do, q, k, v, kept)
    names = {event.key for event in profile.key_averages()}
    return {name for name in names if "scaled_dot_product" in name or "softmax" in name}


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_the_kernel_told_is_the_one_that_the_profiler_sees(
    problem: AttentionProblem, direction: Direction
) -> None:
    operators = operators_of(ENGINE, problem, direction)
    ran = ENGINE.kernel(problem, direction)
    assert ran is not None
    flash = any("flash_attention_for_cpu" in name for name in operators)
    assert ran.kernel == ("flash" if flash else "math")
    assert flash == (problem.head_dim == problem.head_dim_v)
    assert any("softmax" in name for name in operators) != flash


def test_a_fallback_says_why_and_gives_no_lse() -> None:
    problem = AttentionProblem.of(8, head_dim_v=32)
    forward = ENGINE.forward(problem, SETTINGS, *problem.make_inputs()[:3])
    assert forward.lse is None
    assert ENGINE.kernel(problem, "fwd") == Ran(
        "math", "PyTorch fell back to its math kernel: head_dim_v (32) differs from head_dim (64)"
    )


def test_what_pytorch_is_told_to_choose_is_what_runs() -> None:
    problem = AttentionProblem.of(8, head_dim=16)
    q, k, v, _ = problem.make_inputs()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        ENGINE.forward(problem, SETTINGS, q, k, v)
    assert ENGINE.kernel(problem, "fwd") == Ran("math", "PyTorch fell back to its math kernel")
    ENGINE.forward(problem, SETTINGS, q, k, v)
    assert ENGINE.kernel(problem, "fwd") == Ran("flash")


def test_nothing_is_told_of_a_call_that_was_not_made() -> None:
    assert ENGINE.kernel(AttentionProblem.of(3, head_dim=77), "fwd") is None


def test_says_nothing_of_blocks_and_memory() -> None:
    problem = AttentionProblem.of(4)
    assert ENGINE.blocks(problem, "fwd", SETTINGS) is None
    assert ENGINE.workspace_bytes(problem, "fwd", SETTINGS) is None
