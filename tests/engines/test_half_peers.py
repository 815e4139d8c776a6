"""Other projects' engines in 16 bits: as near the oracle as plain PyTorch in that dtype, without copies."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from helpers.support import available_engines

from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import Settings, get_engine
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference

torch = pytest.importorskip("torch")
SETTINGS = Settings(num_threads=1)
PEERS = [
    name for name in ("torch-flash", "torch-math", "zentorch", "onnxruntime") if name in available_engines()
]
HALVES: tuple[Dtype, ...] = ("bfloat16", "float16")
REFUSED = ("onnxruntime", "bfloat16")  # its CPU attention has no bfloat16
SHAPES = {
    "full": {"num_heads": 2, "head_dim": 64},
    "causal": {"num_heads": 3, "head_dim": 40, "causal": True},
    "shared-heads": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "causal": True},
}


def numbers(dtype: Dtype, x: np.ndarray) -> np.ndarray:
    return DTYPES[dtype].view(x).astype(np.float64)


def plain(problem: AttentionProblem, do, q, k, v) -> list[np.ndarray]:
    """o, dq, dk and dv as four lines of PyTorch give them in the problem's dtype, every step rounded."""
    dtype = getattr(torch, problem.dtype)
    q, k, v, do = (torch.from_numpy(numbers(problem.dtype, x)).to(dtype) for x in (q, k, v, do))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    group = problem.num_heads // problem.num_kv_heads
    scores = q @ k.repeat_interleave(group, 1).mT * problem.scale
    if problem.causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    o = scores.softmax(-1) @ v.repeat_interleave(group, 1)
    found = (o, *torch.autograd.grad(o, leaves, do))
    return [x.detach().double().numpy() for x in found]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("name", "dtype"), [pair for pair in product(PEERS, HALVES) if pair != REFUSED])
def test_errors_are_those_of_the_dtype(name: str, dtype: Dtype, shape: dict[str, int]) -> None:
    engine = get_engine(name)
    problem = AttentionProblem.of(150, dtype=dtype, **shape)
    q, k, v, do = problem.make_inputs()
    exact_o, exact_lse = attention_reference(problem, q, k, v)
    naive = plain(problem, do, q, k, v)
    factor = 2.0
    if name == "zentorch" and dtype == "float16":  # its float16 rounds to about as many bits as bfloat16
        factor *= DTYPES["bfloat16"].unit_roundoff / DTYPES["float16"].unit_roundoff
    forward = engine.forward(problem, SETTINGS, q, k, v, keep=True)
    assert forward.o.dtype == q.dtype
    bound = factor * np.abs(naive[0] - exact_o).max() + 1e-5
    assert np.abs(numbers(dtype, forward.o) - exact_o).max() <= bound
    if forward.lse is not None:
        assert forward.lse.dtype == np.float32
        assert np.abs(forward.lse - exact_lse).max() <= 1e-4
    if engine.unsupported(problem, "bwd"):
        return
    exact = attention_backward_reference(problem, do, q, k, v)
    gradients = engine.backward(problem, SETTINGS, do, q, k, v, forward)
    for ours, theirs, expected in zip(gradients, naive[1:], exact, strict=True):
        assert ours.dtype == q.dtype
        bound = 3 * np.abs(theirs - expected).max() + 1e-5
        assert np.abs(numbers(dtype, ours) - expected).max() <= bound


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["torch-flash", "torch-math"])
def test_the_kernel_named_is_the_one_that_pytorch_ran(name: str, dtype: Dtype) -> None:
    engine, problem = get_engine(name), AttentionProblem.of(64, dtype=dtype)
    q, k, v, _ = problem.make_inputs()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        engine.forward(problem, SETTINGS, q, k, v)
    ran = engine.kernel(problem, "fwd")
    assert ran is not None
    flash = any("flash_attention_for_cpu" in event.key for event in profile.key_averages())
    assert (ran.kernel == "flash") == flash == (name == "torch-flash")


@pytest.mark.parametrize("dtype", HALVES)
def test_tensors_share_the_memory_of_arrays(dtype: Dtype) -> None:
    from flashbench.engines.peers.torch_tensors import array, tensor

    x = AttentionProblem.of(6, head_dim=8, dtype=dtype).make_inputs()[0]
    shared = tensor(x)
    assert shared.dtype == getattr(torch, dtype)
    assert shared.data_ptr() == x.ctypes.data
    assert np.array_equal(shared.double().numpy(), numbers(dtype, x))
    assert array(shared).dtype == x.dtype
    assert array(shared).ctypes.data == x.ctypes.data


@pytest.mark.skipif("onnxruntime" not in PEERS, reason="onnxruntime is not installed")
def test_onnxruntime_says_which_operator_has_float16() -> None:
    engine, problem = get_engine("onnxruntime"), AttentionProblem.of(16, dtype="float16", num_heads=2)
    engine.forward(problem, SETTINGS, *problem.make_inputs()[:3])
    ran = engine.kernel(problem, "fwd")
    assert ran is not None
    assert "GroupQueryAttention ran: MultiHeadAttention does not take float16" in (ran.note or "")
    longer = AttentionProblem.of(16, seqlen_k=17, dtype="float16")
    assert "GroupQueryAttention needs seqlen_q equal to seqlen_k" in (engine.unsupported(longer, "fwd") or "")


@pytest.mark.skipif("onnxruntime" not in PEERS, reason="onnxruntime is not installed")
def test_onnxruntime_refuses_bfloat16_in_one_line() -> None:
    refusal = get_engine("onnxruntime").unsupported(AttentionProblem.of(8, dtype="bfloat16"), "fwd")
    assert refusal == "ONNX Runtime's CPU attention takes float32 and float16, not bfloat16"
