"""Checks attention's arguments once, cheaply: from arrays to a problem and 4-D views."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from flashbench.arguments.arrays import (
    as_accumulator,
    as_array,
    as_published,
    as_stored,
    check_same_dtype,
)
from flashbench.arguments.bfloat16 import as_patterns
from flashbench.arguments.features import read_features
from flashbench.arguments.layouts import (
    ArgumentLayout,
    check_dtypes,
    inward,
    outward,
    place_batch,
    place_packed,
    place_paged,
)
from flashbench.arguments.values import as_count, as_flag, as_scale, as_size
from flashbench.block_mask import BlockMask
from flashbench.engines import (
    Array,
    AttentionGradients,
    Engine,
    Forward,
    Settings,
    engine_names,
    get_engine,
    refusal,
)
from flashbench.errors import AttentionError, EngineError, UnsupportedError
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, CausalAlignment, Direction, Window

__all__ = [
    "Call",
    "as_array",
    "as_count",
    "as_flag",
    "as_scale",
    "as_size",
    "check",
    "find_engine",
    "prepare",
]

ALIGNMENTS = ("bottom-right", "top-left")
_NO_WINDOW: Window = (None, None)
_NO_DROPOUT = 0.0
# Types of options that mean the same whenever they are equal and of one type. An array is not among them.
_FIXED = frozenset((bool, int, float, str, type(None)))
_KEPT_ENGINES = ("flash", "standard")  # what others refuse may depend on more than the problem
_SHORT = 8  # at most so many whole numbers in an option of a call that is kept


class Call(NamedTuple):
    """A checked call. q, k and v are 4-D views as engines store them; `layout` is the axis order of the
    caller's arrays.
    """

    engine: Engine
    problem: AttentionProblem
    settings: Settings
    q: Array
    k: Array
    v: Array
    layout: ArgumentLayout
    extras: Extras = NO_EXTRAS
    mask_shape: tuple[int, ...] | None = None  # of the caller's mask, and so of dmask

    def forward(self, *, keep: bool = False) -> Forward:
        """The engine's forward, in the engine's own shapes. keep: also save what its backward needs."""
        return self.engine.forward(
            self.problem, self.settings, self.q, self.k, self.v, extras=self.extras, keep=keep
        )

    def backward(self, do: Array, forward: Forward, *, return_dmask: bool = False) -> AttentionGradients:
        """The engine's gradients, in its own shapes; dmask in that of the caller's mask.

        do: a result of `take`.

        Raises AttentionError if return_dmask comes without a float mask, UnsupportedError if the engine
        computes no dmask.
        """
        if return_dmask and self.problem.mask != "float":
            kind = "none" if self.problem.mask is None else f"a {self.problem.mask} mask"
            raise AttentionError(f"return_dmask needs a mask of floats, not {kind}")
        found = self.engine.backward(
            self.problem,
            self.settings,
            do,
            self.q,
            self.k,
            self.v,
            forward,
            extras=self.extras,
            mask_gradient=return_dmask,
        )
        dmask = None
        if return_dmask:
            if found.dmask is None:
                raise UnsupportedError(
                    f"engine {self.engine.name!r} gives no gradient of a mask",
                    hint="leave return_dmask out, or choose another engine",
                )
            assert self.mask_shape is not None  # it came with the mask
            dmask = found.dmask.reshape(self.mask_shape)
        dq, dk, dv = found
        return AttentionGradients(dq, dk, dv, found.dsinks, dmask)

    def take(self, name: str, value: Any, like: str) -> Array:
        """`value` as a view in the engine's shape. It must have the caller's shape of `like` ("o" or "lse").

        Raises AttentionError.
        """
        x, dtype = as_array(name, value), self.problem.dtype
        if like == "lse":
            x = as_accumulator(name, x, "q", dtype, only=True)
        else:
            check_same_dtype(name, x, "q", dtype)
            x = as_stored(x, dtype)
        shape = self._shape_of(like)
        if x.shape != shape:
            raise AttentionError(f"{name} must have shape {shape} for these q, k and v, not {x.shape}")
        return inward(self.layout, x)

    def give_lse(self, forward: Forward) -> Array:
        """The forward's lse in the caller's layout. Raises UnsupportedError if the engine gave none."""
        if forward.lse is None:
            raise UnsupportedError(
                f"engine {self.engine.name!r} gives no lse for this problem",
                hint="leave return_lse out, or choose another engine",
            )
        return outward(self.layout, forward.lse)

    def give(self, x: Array) -> Array:
        """A result of the problem's dtype in the caller's layout and dtype.

        Raises EngineError if the dtype is ml_dtypes', and that is not installed.
        """
        return as_published(outward(self.layout, x), self.problem.dtype)

    def give_gradients(self, found: AttentionGradients) -> AttentionGradients:
        """What `backward` returned, in the caller's layout and dtype. Raises EngineError as `give`."""
        dq, dk, dv = map(self.give, found)
        return AttentionGradients(dq, dk, dv, found.dsinks, found.dmask)

    def _shape_of(self, like: str) -> tuple[int, ...]:
        p = self.problem
        if self.layout == "thd":
            rows = p.query_rows
            return (p.num_heads, rows) if like == "lse" else (rows, p.num_heads, p.head_dim_v)
        axes = (p.batch, p.seqlen_q) if self.layout == "bsd" else (p.batch, p.num_heads, p.seqlen_q)
        return axes if like == "lse" else (*axes, p.head_dim_v)


def prepare(direction: Direction, q: Any, k: Any, v: Any, **options: Any) -> Call:
    """Check all arguments of `flashbench.attention`, or of `attention_varlen` if cu_seqlens is given.

    The options are those of `check`, and so are the errors. What it found is kept for calls with the same
    shapes, dtypes and options, unless an option holds numbers that may change.
    """
    q, k, v = as_array("q", q), as_array("k", k), as_array("v", v)
    for value in options.values():
        if type(value) not in _FIXED and not _is_short_tuple(value):
            return check(direction, q, k, v, **options)
    if options and (options.get("engine", "flash") not in _KEPT_ENGINES or "dropout_seed" in options):
        return check(direction, q, k, v, **options)  # the next seed is another
    known = _known(direction, q.shape, q.dtype, k.shape, k.dtype, v.shape, v.dtype, **options)
    if known.problem.dtype == "bfloat16":
        q, k, v = as_patterns(q), as_patterns(k), as_patterns(v)
    if known.layout == "bsd":
        q, k, v = inward("bsd", q), inward("bsd", k), inward("bsd", v)
    return Call(known.engine, known.problem, known.settings, q, k, v, known.layout)


def _is_short_tuple(value: Any) -> bool:
    """Whether it is a window, or a few lengths: equal ones mean the same."""
    return type(value) is tuple and len(value) <= _SHORT and all(type(x) is int or x is None for x in value)


@functools.lru_cache(maxsize=1024, typed=True)  # typed: True is no whole number, although it equals 1
def _known(
    direction: Direction,
    q: tuple[int, ...],
    q_dtype: np.dtype[Any],
    k: tuple[int, ...],
    k_dtype: np.dtype[Any],
    v: tuple[int, ...],
    v_dtype: np.dtype[Any],
    **options: Any,
) -> Call:
    """The checked call of arrays of these shapes and dtypes. Its own arrays have one number each."""
    given = ((q, q_dtype), (k, k_dtype), (v, v_dtype))
    return check(
        direction, *(np.broadcast_to(np.zeros((), dtype), shape) for shape, dtype in given), **options
    )


def check(
    direction: Direction,
    q: Array,
    k: Array,
    v: Array,
    *,
    cu_seqlens: tuple[Any, Any] | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_alignment: CausalAlignment = "bottom-right",
    window: Window = _NO_WINDOW,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    mask: BlockMask | Any = None,
    sinks: Any = None,
    key_lengths: Any = None,
    block_table: Any = None,
    dropout: float = _NO_DROPOUT,
    dropout_seed: int | None = None,
    engine: str = "flash",
    block_q: int | None = None,
    block_k: int | None = None,
    num_threads: int | None = None,
    use_simd: bool = True,
) -> Call:
    """`prepare` for arrays by `as_array`, with nothing kept.

    Raises AttentionError, EngineError if the engine's library is missing, and UnsupportedError if the
    engine cannot run the problem.
    """
    dtype = check_dtypes(q, k, v)
    if dtype == "bfloat16":
        q, k, v = as_patterns(q), as_patterns(k), as_patterns(v)
    if cu_seqlens is not None:
        placed = place_packed(q, k, v, *cu_seqlens)
    elif block_table is not None:
        placed = place_paged(q, k, v, key_lengths, block_table)
    else:
        placed = place_batch(q, k, v, key_lengths)
    if causal_alignment not in ALIGNMENTS:
        raise AttentionError(f"unknown causal_alignment {causal_alignment!r}; known: {', '.join(ALIGNMENTS)}")
    settings = Settings(
        as_count("block_q", block_q),
        as_count("block_k", block_k),
        as_count("num_threads", num_threads),
        as_flag("use_simd", use_simd),
    )
    layout, q, k, v, batch, seqlen_q, seqlen_k, lengths, query_lengths, page_size, pages = placed
    num_heads = q.shape[1]
    fields: dict[str, Any] = {}
    extras = NO_EXTRAS
    mask_shape = None
    if not (
        mask is None
        and window is _NO_WINDOW
        and dropout is _NO_DROPOUT
        and dropout_seed is None
        and softcap is None
        and alibi_slopes is None
        and sinks is None
    ):
        fields, extras, mask_shape = read_features(
            dtype,
            (batch, num_heads, seqlen_q, seqlen_k),
            has_heads=layout != "bsd",
            window=window,
            mask=mask,
            alibi_slopes=alibi_slopes,
            softcap=softcap,
            sinks=sinks,
            dropout=dropout,
            dropout_seed=dropout_seed,
        )
    if pages is not None:
        extras = extras._replace(block_table=pages)
    problem = AttentionProblem(
        batch=batch,
        num_heads=num_heads,
        num_kv_heads=k.shape[1],
        seqlen_q=seqlen_q,
        seqlen_k=seqlen_k,
        head_dim=q.shape[3],
        head_dim_v=v.shape[3],
        dtype=dtype,
        causal=as_flag("causal", causal),
        causal_alignment=causal_alignment,
        softmax_scale=as_scale("softmax_scale", softmax_scale),
        key_lengths=lengths,
        query_lengths=query_lengths,
        page_size=page_size,
        **fields,
    )
    chosen = find_engine(engine)
    if reason := refusal(chosen, problem, direction):
        raise UnsupportedError(f"engine {engine!r} cannot run this: {reason}")
    return Call(chosen, problem, settings, q, k, v, layout, extras, mask_shape)


def find_engine(name: str) -> Engine:
    """The engine of that name. An unknown name is the caller's mistake, hence AttentionError."""
    try:
        return get_engine(name)
    except EngineError as error:
        if name in engine_names():
            raise
        raise AttentionError(str(error)) from None
    except TypeError:  # not hashable, such as a list
        raise AttentionError(f"engine must be one of {', '.join(engine_names())}, not {name!r}") from None
