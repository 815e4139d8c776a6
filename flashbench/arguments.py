"""What callers pass to attention, checked once and cheaply: arrays in, a problem and 4-D views out."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, NamedTuple, cast

import numpy as np

from flashbench.engines import Array, Engine, Forward, Settings, engine_names, get_engine, refusal
from flashbench.errors import AttentionError, EngineError, UnsupportedError
from flashbench.problem import AttentionProblem, CausalAlignment, Direction, Dtype

ALIGNMENTS = ("bottom-right", "top-left")
DTYPES: dict[np.dtype[Any], Dtype] = {np.dtype(np.float64): "float64", np.dtype(np.float32): "float32"}
_CPU = 1  # kDLCPU of DLPack
_FOUR_D = "(batch, num_heads, seqlen, head_dim)"
_THREE_D = "(batch, seqlen, head_dim)"


class Call(NamedTuple):
    """A checked call: q, k and v are 4-D views; `one_head` says that they came without a head axis."""

    engine: Engine
    problem: AttentionProblem
    settings: Settings
    q: Array
    k: Array
    v: Array
    one_head: bool

    def take(self, name: str, value: Any, like: str) -> Array:
        """The argument `value`, of the shape that `like` ("o" or "lse") has in this call, as a 4-D view.

        Raises AttentionError.
        """
        x = as_array(name, value)
        _check_dtype(name, x)
        if x.dtype != self.q.dtype:
            raise AttentionError(f"{name} has dtype {x.dtype}, q has {self.q.dtype}: they must be the same")
        p = self.problem
        rows = (p.batch, p.seqlen_q) if self.one_head else (p.batch, p.num_heads, p.seqlen_q)
        shape = rows if like == "lse" else (*rows, p.head_dim_v)
        if x.shape != shape:
            raise AttentionError(f"{name} must have shape {shape} for these q, k and v, not {x.shape}")
        return x[:, None] if self.one_head else x

    def give_lse(self, forward: Forward) -> Array:
        """The forward's lse as the caller takes it. Raises UnsupportedError when the engine gave none."""
        if forward.lse is None:
            raise UnsupportedError(
                f"engine {self.engine.name!r} gives no lse for this problem",
                hint="leave return_lse out, or choose another engine",
            )
        return self.give(forward.lse)

    def give(self, x: Array) -> Array:
        """A result in the number of dimensions that the caller uses."""
        return x[:, 0] if self.one_head else x


def prepare(
    direction: Direction,
    q: Any,
    k: Any,
    v: Any,
    *,
    softmax_scale: float | None,
    causal: bool,
    causal_alignment: CausalAlignment,
    engine: str,
    block_q: int | None,
    block_k: int | None,
    num_threads: int | None,
    use_simd: bool,
) -> Call:
    """Check everything that `flashbench.attention` documents.

    Raises AttentionError, EngineError when the engine's library is missing, and UnsupportedError when
    the engine cannot run the problem.
    """
    q, k, v = as_array("q", q), as_array("k", k), as_array("v", v)
    dtype = _check_arrays(q, k, v)
    if causal_alignment not in ALIGNMENTS:
        raise AttentionError(f"unknown causal_alignment {causal_alignment!r}; known: {', '.join(ALIGNMENTS)}")
    settings = Settings(
        as_count("block_q", block_q),
        as_count("block_k", block_k),
        as_count("num_threads", num_threads),
        as_flag("use_simd", use_simd),
    )
    one_head = q.ndim == 3
    if one_head:
        q, k, v = q[:, None], k[:, None], v[:, None]
    batch, num_heads, seqlen_q, head_dim = q.shape
    _, num_kv_heads, seqlen_k, head_dim_v = v.shape
    problem = AttentionProblem(
        batch=batch,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        seqlen_q=seqlen_q,
        seqlen_k=seqlen_k,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        dtype=dtype,
        causal=as_flag("causal", causal),
        causal_alignment=causal_alignment,
        softmax_scale=as_scale("softmax_scale", softmax_scale),
    )
    chosen = find_engine(engine)
    if reason := refusal(chosen, problem, direction):
        raise UnsupportedError(f"engine {engine!r} cannot run this: {reason}")
    return Call(chosen, problem, settings, q, k, v, one_head)


def find_engine(name: str) -> Engine:
    """The engine of that name, an unknown one being the caller's mistake: AttentionError."""
    try:
        return get_engine(name)
    except EngineError as error:
        if name in engine_names():
            raise
        raise AttentionError(str(error)) from None
    except TypeError:  # a list, say, cannot even be looked up
        raise AttentionError(f"engine must be one of {', '.join(engine_names())}, not {name!r}") from None


def as_array(name: str, x: Any) -> Array:
    """The argument as an aligned ndarray, without a copy if it can be. Raises AttentionError."""
    if type(x) is not np.ndarray:
        x = _foreign_array(name, x)
    # Aligned implies strides in whole elements, which engines rely on.
    return cast(Array, x if x.flags.aligned else x.copy())


def as_count(name: str, value: int | None) -> int | None:
    """None or a whole number from 1 up. Raises AttentionError."""
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise AttentionError(f"{name} must be a whole number or None, not {value!r}")
    if count < 1:
        raise AttentionError(f"{name} must be at least 1, not {count}")
    return count


def as_flag(name: str, value: bool) -> bool:
    """True or False and nothing that only resembles it. Raises AttentionError."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise AttentionError(f"{name} must be True or False, not {value!r}")


def as_scale(name: str, value: float | None) -> float | None:
    """None or a finite number. Raises AttentionError."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise AttentionError(f"{name} must be a number or None, not {value!r}")
    scale = float(value)
    if not math.isfinite(scale):
        raise AttentionError(f"{name} must be finite, not {scale}")
    return scale


def _foreign_array(name: str, x: Any) -> np.ndarray[Any, Any]:
    if isinstance(x, np.ma.MaskedArray):
        raise AttentionError(
            f"{name} is a masked array, whose mask would be ignored", hint=f"{name}.filled(...)"
        )
    if isinstance(x, np.ndarray):  # memmap and other subclasses
        return x.view(np.ndarray)
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise AttentionError(
            f"{name} must be a NumPy array or another with __dlpack__, not {type(x).__name__}",
            hint=f"numpy.asarray({name})",
        )
    try:
        device, _ = x.__dlpack_device__()
        if device != _CPU:
            raise AttentionError(
                f"{name} must be in CPU memory, not on DLPack device type {int(device)}", hint=f"{name}.cpu()"
            )
        return np.from_dlpack(x)
    except AttentionError:
        raise
    except Exception as error:  # each library raises kinds of its own
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AttentionError(
            f"{name} ({type(x).__name__}) cannot be shared through DLPack: {message}"
        ) from error


def _check_arrays(q: Array, k: Array, v: Array) -> Dtype:
    dtype = DTYPES.get(q.dtype)
    if dtype is None or k.dtype != q.dtype or v.dtype != q.dtype:
        for name, x in (("q", q), ("k", k), ("v", v)):
            _check_dtype(name, x)
            if x.dtype != q.dtype:
                raise AttentionError(f"{name} has dtype {x.dtype}, q has {q.dtype}: they must be the same")
        raise AssertionError(f"unreachable: dtypes {q.dtype}, {k.dtype}, {v.dtype}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != q.ndim or x.ndim not in (3, 4):
            raise AttentionError(
                f"q, k and v must all be 4-D {_FOUR_D} or all 3-D {_THREE_D}; {name} has shape {x.shape}"
                + (f", q {q.shape}" if name != "q" else "")
            )
        if x.size == 0:
            raise AttentionError(f"{name} must not be empty, but has shape {x.shape}")
    if k.shape[0] != q.shape[0] or k.shape[-1] != q.shape[-1]:
        raise AttentionError(
            f"k must have q's batch and head_dim, but has shape {k.shape} where q has {q.shape}"
        )
    if v.shape[:-1] != k.shape[:-1]:
        raise AttentionError(
            f"v must have k's batch, num_kv_heads and seqlen_k, but has shape {v.shape} where k has {k.shape}"
        )
    return dtype


def _check_dtype(name: str, x: Array) -> None:
    if x.dtype in DTYPES:
        return
    if x.dtype.newbyteorder("=") in DTYPES:
        raise AttentionError(
            f"{name} must be in this machine's byte order, not {x.dtype.str!r}",
            hint=f"{name}.astype({name}.dtype.newbyteorder('='))",
        )
    raise AttentionError(f"{name} must be float64 or float32, not {x.dtype}")
