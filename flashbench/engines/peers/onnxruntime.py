"""ONNX Runtime's CPU attention: a model of one node that reads and writes our arrays in place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from flashbench.dtypes import Dtype
from flashbench.engines.peers import OnnxOutline, needs_group_query
from flashbench.engines.protocol import Array, Forward, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction
from flashbench.system.cores import available_cores

_MICROSOFT = "com.microsoft"
_MULTI_HEAD, _GROUP_QUERY = "MultiHeadAttention", "GroupQueryAttention"
# The oldest versions that every release with these operators reads.
_OPSET, _IR_VERSION = 17, 8
# A new session reads these. If they change no bit of a result, no flash kernel ran without them either.
_WITHOUT_FLASH = {"ORT_DISABLE_FLASH_ATTENTION": "1", "ORT_GQA_DISABLE_FLASH_ATTENTION": "1"}
_PROBE_SEQLEN = 128
_SESSIONS = 8


class Node(NamedTuple):
    """The operator that a problem needs, for any lengths and batch."""

    operator: str
    num_heads: int
    num_kv_heads: int
    scale: float
    causal: bool
    dtype: Dtype


class OnnxEngine(OnnxOutline):
    """`com.microsoft.MultiHeadAttention`; `GroupQueryAttention` for shared key heads and for float16.

    We set the threads, and leave ONNX Runtime's other defaults. Its arena keeps a call's scratch for the next
    call; it is off without `settings.keep_scratch`.
    """

    summary = "ONNX Runtime's CPU MultiHeadAttention operator, forward only"

    def __init__(self) -> None:
        self._kernels: dict[tuple[str, bool, Dtype, int, int], str] = {}

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """The outline's answer, and what this release lacks."""
        return super().unsupported(problem, direction) or self._release_refuses(problem)

    def _release_refuses(self, problem: AttentionProblem) -> str | None:
        if not needs_group_query(problem) or _has_plain_group_query():
            return None
        release = onnxruntime.__version__
        return f"the GroupQueryAttention of ONNX Runtime {release} is always causal and fills a cache"

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """o; the operators return no lse."""
        session = _session(
            _node_of(problem), settings.num_threads or available_cores(), settings.keep_scratch
        )
        return Forward(_run(session, problem, q, k, v), None)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """Flash or unfused. ONNX Runtime does not say which, but chooses by node and machine alone.

        So the engine runs a small problem like this one with flash allowed and with flash off. The kernel was
        flash if any bit differs.
        """
        node = _node_of(problem)
        key = (node.operator, node.causal, node.dtype, problem.head_dim, problem.head_dim_v)
        if key not in self._kernels:
            self._kernels[key] = _observed_kernel(problem)
        kernel = self._kernels[key]
        notes = []
        if node.operator == _GROUP_QUERY:
            shared = problem.num_heads != problem.num_kv_heads
            lacks = "does not share key heads" if shared else f"does not take {node.dtype}"
            notes.append(f"GroupQueryAttention ran: MultiHeadAttention {lacks}")
        if kernel == "unfused":
            notes.append("ONNX Runtime ran its unfused kernel, which keeps every score in memory")
        return Ran(kernel, "; ".join(notes) or None)


@lru_cache
def _has_plain_group_query() -> bool:
    """Whether GroupQueryAttention runs without a mask and without a cache; early releases cannot."""
    schemas = onnxruntime.capi.onnxruntime_pybind11_state.get_all_operator_schema()
    schema = next(schema for schema in schemas if schema.name == _GROUP_QUERY)
    return "causal" in schema.attributes and schema.outputs[1].option == schema.FormalParameterOption.Optional


def _node_of(problem: AttentionProblem) -> Node:
    return Node(
        _GROUP_QUERY if needs_group_query(problem) else _MULTI_HEAD,
        problem.num_heads,
        problem.num_kv_heads,
        problem.scale,
        problem.masked,
        problem.dtype,
    )


@lru_cache(maxsize=_SESSIONS)
def _session(node: Node, threads: int, keep_scratch: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = keep_scratch
    model = _model(node).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def model_of(problem: AttentionProblem) -> bytes:
    """The model of a problem, as ONNX files hold it."""
    model: bytes = _model(_node_of(problem)).SerializeToString()
    return model


def _model(node: Node) -> onnx.ModelProto:
    """One node between inputs q, k and v and the output o: (batch, seqlen, heads * head_dim)."""
    attributes: dict[str, Any] = {"num_heads": node.num_heads, "scale": node.scale}
    names, lengths = ["q", "k", "v"], []
    if node.operator == _MULTI_HEAD:
        attributes["unidirectional"] = int(node.causal)
    else:
        attributes["kv_num_heads"] = node.num_kv_heads
        if not node.causal:
            attributes["causal"] = 0
        lengths = [
            helper.make_tensor_value_info("last_keys", TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info("seqlen", TensorProto.INT32, []),
        ]
        names += ["", "", "last_keys", "seqlen"]
    element = TensorProto.FLOAT16 if node.dtype == "float16" else TensorProto.FLOAT
    arrays = [
        helper.make_tensor_value_info(name, element, ["batch", f"{name}_seqlen", f"{name}_size"])
        for name in ("q", "k", "v", "o")
    ]
    attend = helper.make_node(node.operator, names, ["o"], domain=_MICROSOFT, **attributes)
    return helper.make_model(
        helper.make_graph([attend], "attention", [*arrays[:3], *lengths], arrays[3:]),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)],
        ir_version=_IR_VERSION,
    )


def _run(session: Any, problem: AttentionProblem, q: Array, k: Array, v: Array) -> Array:
    """o as a 4-D view: (batch, num_heads, seqlen_q, head_dim_v), sequence before heads in memory."""
    o = np.empty((problem.batch, problem.seqlen_q, problem.num_heads, problem.head_dim_v), dtype=q.dtype)
    # Copies only arrays in another order. `inputs` keeps the memory alive until the run is over.
    inputs = {name: np.ascontiguousarray(x.swapaxes(1, 2)) for name, x in (("q", q), ("k", k), ("v", v))}
    binding = session.io_binding()
    for name, x in inputs.items():
        binding.bind_input(name, "cpu", 0, x.dtype, (*x.shape[:2], x.shape[2] * x.shape[3]), _address(x))
    lengths: dict[str, NDArray[np.int32]] = {}
    if needs_group_query(problem):
        lengths["last_keys"] = np.full(problem.batch, problem.seqlen_k - 1, dtype=np.int32)
        lengths["seqlen"] = np.array(problem.seqlen_k, dtype=np.int32)
    for name, length in lengths.items():
        binding.bind_input(name, "cpu", 0, length.dtype, length.shape, _address(length))
    size = (*o.shape[:2], o.shape[2] * o.shape[3])
    binding.bind_output("o", "cpu", 0, o.dtype, size, _address(o))
    session.run_with_iobinding(binding)
    return o.swapaxes(1, 2)


def _address(x: NDArray[Any]) -> int:
    address: int = x.__array_interface__["data"][0]
    return address


def _observed_kernel(problem: AttentionProblem) -> str:
    small = AttentionProblem.of(
        _PROBE_SEQLEN,
        num_heads=problem.num_heads // problem.num_kv_heads,
        num_kv_heads=1,
        head_dim=problem.head_dim,
        head_dim_v=problem.head_dim_v,
        dtype=problem.dtype,
        causal=problem.masked,
    )
    q, k, v, _ = small.make_inputs()
    node = _node_of(small)
    as_it_is = _run(_session.__wrapped__(node, 1, False), small, q, k, v)
    with _environment(_WITHOUT_FLASH):
        unfused = _run(_session.__wrapped__(node, 1, False), small, q, k, v)
    return "unfused" if np.array_equal(as_it_is, unfused) else "flash"


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
