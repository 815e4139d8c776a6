"""Keywords that attention's functions share: their types for type checkers, one signature for `help`."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, NoReturn, TypedDict, TypeVar, cast

from flashbench.arguments import check
from flashbench.block_mask import BlockMask
from flashbench.problem import CausalAlignment, Window

_Function = TypeVar("_Function", bound=Callable[..., Any])
_DEFAULTS = inspect.signature(check).parameters.values()


class Options(TypedDict, total=False):
    """Keywords of every attention function; `check` has the defaults."""

    softmax_scale: float | None
    causal: bool
    causal_alignment: CausalAlignment
    window: Window
    softcap: float | None
    alibi_slopes: Any
    mask: BlockMask | Any
    sinks: Any
    dropout: float
    dropout_seed: int | None
    engine: str
    block_q: int | None
    block_k: int | None
    num_threads: int | None
    use_simd: bool


class BatchOptions(Options, total=False):
    """Keywords of the functions whose sequences are not packed."""

    key_lengths: Any
    block_table: Any


def with_options(accepted: type[Any]) -> Callable[[_Function], _Function]:
    """Restrict a function's **options to the keywords of `accepted`, a TypedDict.

    `help` and `inspect.signature` show them with their defaults. Another name raises TypeError, as in any
    function.
    """

    def decorate(function: _Function) -> _Function:
        own = inspect.signature(function)
        options = [p for p in _DEFAULTS if p.name in accepted.__annotations__]
        parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        signature = own.replace(parameters=[*positional, *options, *parameters[len(positional) :]])
        known = frozenset(signature.parameters)

        @functools.wraps(function)
        def checked(*arguments: Any, **named: Any) -> Any:
            if not named.keys() <= known:
                _refuse(function.__name__, next(name for name in named if name not in known), known)
            return function(*arguments, **named)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return cast(_Function, checked)

    return decorate


def _refuse(function: str, name: str, known: Collection[str]) -> NoReturn:
    close = difflib.get_close_matches(name, known, n=1)
    suggestion = f". Did you mean {close[0]!r}?" if close else ""
    raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{suggestion}")
