"""Tile registers and the rest of the process: permission, other users of AMX, forks."""

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers.amx import needs_amx
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from flashbench.codegen.ir import VOID, call
from flashbench.dtypes import DTYPES
from flashbench.engines import Settings, get_engine
from flashbench.errors import ConfigError
from flashbench.kernels.products.paths import PATHS, path_of
from flashbench.problem import AttentionProblem
from flashbench.system import amx

BFLOAT16 = DTYPES["bfloat16"]
PROBLEM = AttentionProblem.of(200, num_heads=2, dtype="bfloat16", causal=True)


@pytest.fixture
def answers(monkeypatch):
    """answers(number): Linux answers the request for tile registers with this error number; 0: it grants it.

    Returns the list of requests made.
    """
    requests = []

    def answer(number):
        def request():
            requests.append(number)
            return number

        monkeypatch.setattr(amx, "request", request)
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(amx.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr("flashbench.kernels.products.paths.usable_features", lambda: PATHS["amx"].needs)
        return requests

    amx.refusal.cache_clear()
    path_of.cache_clear()
    yield answer
    monkeypatch.undo()
    amx.refusal.cache_clear()
    path_of.cache_clear()


def test_permission_is_asked_for_once_and_only_for_a_path_that_needs_it(answers):
    requests = answers(0)
    path_of("float32")
    path_of("bfloat16", "convert")
    path_of("bfloat16", "amx-emulated")
    assert not requests
    assert path_of("bfloat16") is PATHS["amx"]
    assert path_of("bfloat16", "amx") is PATHS["amx"]
    assert len(requests) == 1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENOSPC, errno.EIO])
def test_without_permission_the_next_path_is_used_and_the_reason_is_kept(answers, number):
    requests = answers(number)
    assert path_of("bfloat16") is PATHS["convert"]
    with pytest.raises(ConfigError, match="path amx cannot be used: "):
        path_of("bfloat16", "amx")
    assert len(requests) == 1
    assert amx.refusal()
    if number == errno.ENOSPC:
        assert "signal stack" in amx.refusal()


def test_other_systems_are_not_asked(answers, monkeypatch):
    requests = answers(0)
    monkeypatch.setattr(sys, "platform", "win32")
    assert "Linux" in amx.refusal()
    assert path_of("bfloat16") is not PATHS["amx"]
    assert not requests


# The stack is too small for the state of the tile registers, so Linux must refuse.
SMALL_SIGNAL_STACK = """
    import ctypes

    class Stack(ctypes.Structure):
        _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    memory = ctypes.create_string_buffer(6144)
    stack = Stack(ctypes.addressof(memory), 0, len(memory))
    assert ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(stack), None) == 0, ctypes.get_errno()

    import numpy as np
    from flashbench.engines import Settings, get_engine
    from flashbench.kernels.products.paths import path_of
    from flashbench.problem import AttentionProblem
    from flashbench.system import amx

    assert "signal stack" in amx.refusal(), amx.refusal()
    print(path_of("bfloat16").product.name)
    problem = AttentionProblem.of(40, dtype="bfloat16")
    q, k, v, _ = problem.make_inputs()
    assert np.any(get_engine("flash").forward(problem, Settings(), q, k, v).o)
"""


def run(script):
    environment = {key: value for key, value in os.environ.items() if key != "FLASHBENCH_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@needs_amx
def test_a_process_with_a_small_signal_stack_computes_without_tiles():
    (name,) = run(SMALL_SIGNAL_STACK)
    assert name != "amx"


def outputs(settings):
    q, k, v, do = PROBLEM.make_inputs()
    engine = get_engine("flash")
    forward = engine.forward(PROBLEM, settings, q, k, v)
    gradients = engine.backward(PROBLEM, settings, do, q, k, v, forward)
    return [forward.o, gradients.dq, gradients.dk, gradients.dv]


@needs_amx
def test_torch_computes_in_bfloat16_between_our_calls_in_the_same_thread():
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator).bfloat16() for _ in range(2))
    q = torch.randn(1, 2, 256, 64, generator=generator).bfloat16().requires_grad_()

    def of_torch():
        q.grad = None
        o = torch.nn.functional.scaled_dot_product_attention(q, q, q)
        o.sum().backward()
        return [a @ b, o.detach(), q.grad.clone()]

    ours, theirs = outputs(Settings(path="amx")), of_torch()
    largest = (a.double() @ b.double() - theirs[0].double()).abs().max()
    assert largest < 64 * BFLOAT16.unit_roundoff
    for _ in range(5):
        for mine, before in zip(outputs(Settings(path="amx")), ours, strict=True):
            np.testing.assert_array_equal(mine, before)
        for its, before in zip(of_torch(), theirs, strict=True):
            assert torch.equal(its, before)


FORKED = """
    import os
    import numpy as np
    from flashbench.engines import Settings, get_engine
    from flashbench.problem import AttentionProblem

    problem, settings = AttentionProblem.of(300, num_heads=4, dtype="bfloat16"), Settings(path="amx")
    q, k, v, _ = problem.make_inputs()

    def o():
        return get_engine("flash").forward(problem, settings, q, k, v).o

    before = o()
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(o(), before) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(o(), before)
    print("alike")
"""


@needs_amx
def test_a_fork_after_a_call_computes_the_same():
    assert run(FORKED) == ["alike"]


@intrinsic
def store_configuration(typingctx, address):
    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        call(builder, "llvm.x86.sttilecfg", VOID, place)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@njit
def read_configuration(address):
    store_configuration(address)


@needs_amx
def test_tiles_are_released_after_a_call():
    outputs(Settings(path="amx", num_threads=1))
    found = np.full(64, 0xFF, np.uint8)
    read_configuration(found.ctypes.data)
    assert not found.any()  # the initial state
