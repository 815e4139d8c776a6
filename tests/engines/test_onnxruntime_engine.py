"""ONNX Runtime's attention: exact if offered, else refused; without copies; it names its real kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.support import assert_close, assert_engine_is_exact
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbench.engines import Ran, Settings, get_engine
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_reference
from flashbench.tolerances import tolerance_for

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
ENGINE = get_engine("onnxruntime")
SETTINGS = Settings(num_threads=1)


def of(seqlen: int, **sizes: object) -> AttentionProblem:
    return AttentionProblem.of(seqlen, dtype="float32", **sizes)


@st.composite
def problems(draw: st.DrawFn) -> AttentionProblem:
    """Small problems, most of which it supports."""
    length = draw(st.integers(1, 70))
    num_kv_heads = draw(st.integers(1, 3))
    head_dim = draw(st.sampled_from([1, 8, 17, 40, 64]))
    return of(
        length,
        seqlen_k=draw(st.one_of(st.just(length), st.integers(1, 70))),
        batch=draw(st.integers(1, 2)),
        num_heads=num_kv_heads * draw(st.integers(1, 3)),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        head_dim_v=draw(st.sampled_from([head_dim, 5])),
        causal=draw(st.booleans()),
        causal_alignment=draw(st.sampled_from(["bottom-right", "top-left"])),
        softmax_scale=draw(st.sampled_from([None, 0.0, 0.1, -0.1])),
    )


@given(problem=problems(), threads=st.sampled_from([1, 2]), keep_scratch=st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_it_supports_is_exact(problem: AttentionProblem, threads: int, keep_scratch: bool) -> None:
    if ENGINE.unsupported(problem, "fwd"):
        return
    q, k, v, _ = problem.make_inputs()
    run = Settings(num_threads=threads, keep_scratch=keep_scratch)
    o = ENGINE.forward(problem, run, q, k, v).o
    assert_close(o, attention_reference(problem, q, k, v)[0], tolerance_for("float32", "o"))


@pytest.mark.parametrize(
    "problem",
    [
        of(70, seqlen_k=90, batch=2, num_heads=3, head_dim_v=24),
        of(70, batch=2, num_heads=3, causal=True),
        of(1, seqlen_k=90, causal=True),  # bottom-right, and nothing is hidden
        of(40, softmax_scale=-0.5),
    ],
    ids=str,
)
def test_multi_head_attention_matches_the_oracle(problem: AttentionProblem) -> None:
    assert ENGINE.unsupported(problem, "fwd") is None
    assert_engine_is_exact(ENGINE, problem, SETTINGS)


@pytest.mark.parametrize("causal", [False, True])
def test_shared_key_heads_run_through_another_operator(causal: bool) -> None:
    problem = of(40, batch=2, num_heads=6, num_kv_heads=2, head_dim=16, causal=causal)
    if "fills a cache" in (ENGINE.unsupported(problem, "fwd") or ""):
        pytest.skip("the GroupQueryAttention of this ONNX Runtime always fills a cache")
    assert_engine_is_exact(ENGINE, problem, SETTINGS)
    ran = ENGINE.kernel(problem, "fwd")
    assert ran is not None
    assert "GroupQueryAttention ran" in (ran.note or "")


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (AttentionProblem.of(8), "takes float32 and float16, not float64"),
        (of(8, seqlen_k=9, causal=True), "needs seqlen_q equal to seqlen_k, not 8 and 9"),
        (of(9, seqlen_k=8, causal=True, causal_alignment="top-left"), "not 9 and 8"),
        (of(1, seqlen_k=9, causal=True, causal_alignment="top-left"), "not 1 and 9"),
        (of(8, softmax_scale=0.0), "takes a softmax_scale of 0 for its default"),
        (of(8, softmax_scale=1e-60), "takes a softmax_scale of 0 for its default"),
    ],
)
def test_what_it_would_read_as_another_problem_is_refused(problem: AttentionProblem, reason: str) -> None:
    assert reason in (ENGINE.unsupported(problem, "fwd") or "")


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"seqlen_k": 9}, "GroupQueryAttention needs seqlen_q equal to seqlen_k, not 8 and 9"),
        ({"head_dim_v": 32}, "GroupQueryAttention needs head_dim_v equal to head_dim, not 32 and 64"),
        ({"head_dim": 20}, "GroupQueryAttention needs head_dim in eights, not 20"),
    ],
)
def test_what_shared_key_heads_ask_for_is_told(sizes: dict[str, int], reason: str) -> None:
    assert reason in (ENGINE.unsupported(of(8, num_heads=2, num_kv_heads=1, **sizes), "fwd") or "")


def test_an_older_release_does_not_share_key_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = of(8, num_heads=2, num_kv_heads=1)
    monkeypatch.setattr("flashbench.engines.peers.onnxruntime._has_plain_group_query", lambda: True)
    assert ENGINE.unsupported(shared, "fwd") is None
    monkeypatch.setattr("flashbench.engines.peers.onnxruntime._has_plain_group_query", lambda: False)
    assert "always causal and fills a cache" in (ENGINE.unsupported(shared, "fwd") or "")
    assert ENGINE.unsupported(of(8, num_heads=2), "fwd") is None


@pytest.mark.parametrize("direction", ["bwd", "fwd_bwd"])
def test_there_is_no_backward(direction: str) -> None:
    assert ENGINE.unsupported(of(8), direction) == "ONNX Runtime's attention operators have no backward"


def test_arrays_in_its_order_are_read_and_written_in_place() -> None:
    problem = of(16, num_heads=2, head_dim=8)
    q, k, v = (np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in problem.make_inputs()[:3])
    assert np.shares_memory(np.ascontiguousarray(q.swapaxes(1, 2)), q)
    forward = ENGINE.forward(problem, SETTINGS, q, k, v)
    assert forward.lse is None
    assert forward.o.base is not None
    assert forward.o.swapaxes(1, 2).flags.c_contiguous
    again = ENGINE.forward(problem, SETTINGS, q, k, v)
    assert not np.shares_memory(forward.o, again.o)


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_told_is_the_one_that_the_memory_shows(causal: bool) -> None:
    """Flash never holds a score matrix; the unfused kernel holds all of them."""
    memory = pytest.importorskip("flashbench.measure.memory")
    pytest.importorskip("memray")
    problem = of(512, num_heads=4, head_dim=16, causal=causal)
    q, k, v, _ = problem.make_inputs()
    run = SETTINGS._replace(keep_scratch=False)
    results = [ENGINE.forward(problem, run, q, k, v)]
    peak = memory.workspace_peak(
        memory.track(lambda: results.append(ENGINE.forward(problem, run, q, k, v))),
        problem.output_bytes("fwd"),
    )
    scores = 4 * 512 * 512 * 4
    ran = ENGINE.kernel(problem, "fwd")
    assert ran is not None
    assert (ran.kernel == "unfused") == (peak >= scores)
    assert (ran.note is None) == (ran.kernel == "flash")


def test_a_user_who_turns_flash_off_is_told_so() -> None:
    program = (
        "from flashbench.engines import get_engine; from flashbench.problem import AttentionProblem;"
        "print(get_engine('onnxruntime').kernel(AttentionProblem.of(64, dtype='float32'), 'fwd'))"
    )
    environment = os.environ | {"ORT_DISABLE_FLASH_ATTENTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    expected = Ran("unfused", "ONNX Runtime ran its unfused kernel, which keeps every score in memory")
    assert done.stdout.strip() == str(expected)
    assert "ORT_DISABLE_FLASH_ATTENTION" not in os.environ  # looking leaves the environment as it was


def test_says_nothing_of_blocks_and_memory() -> None:
    assert ENGINE.blocks(of(4), "fwd", SETTINGS) is None
    assert ENGINE.workspace_bytes(of(4), "fwd", SETTINGS) is None
