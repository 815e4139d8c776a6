"""The options of the four functions: their signatures, their types, and the features that they ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flashbench.arguments import check, find_engine
from flashbench.arguments.options import BatchOptions
from flashbench.errors import UnsupportedError
from flashbench.functional import attention, attention_backward
from flashbench.varlen import attention_varlen, attention_varlen_backward

X, T = np.zeros((2, 4, 6, 8)), np.zeros((6, 4, 8))
CU = [0, 2, 6]


@pytest.mark.parametrize(
    ("function", "positional", "name", "suggestion"),
    [
        (attention, 3, "windw", "window"),
        (attention, 3, "return_dmask", "return_lse"),
        (attention, 3, "cu_seqlens", None),
        (attention_backward, 6, "key_length", "key_lengths"),
        (attention_varlen, 5, "key_lengths", None),
        (attention_varlen_backward, 8, "block_table", None),
    ],
)
def test_an_unknown_keyword_is_the_functions_own_type_error(
    function: Callable[..., Any], positional: int, name: str, suggestion: str | None
) -> None:
    with pytest.raises(TypeError) as error:
        function(*(T,) * positional, **{name: None})
    message = f"{function.__name__}() got an unexpected keyword argument {name!r}"
    assert str(error.value).startswith(message)
    if suggestion is not None:
        assert str(error.value) == f"{message}. Did you mean {suggestion!r}?"


BATCH_OPTIONS = set(BatchOptions.__annotations__)
PACKED_OPTIONS = BATCH_OPTIONS - {"key_lengths", "block_table"}


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (attention, BATCH_OPTIONS | {"return_lse"}),
        (attention_backward, BATCH_OPTIONS | {"return_dmask"}),
        (attention_varlen, PACKED_OPTIONS | {"return_lse"}),
        (attention_varlen_backward, PACKED_OPTIONS | {"return_dmask"}),
    ],
)
def test_help_shows_every_option_with_its_default_and_says_what_it_is(
    function: Callable[..., Any], options: set[str]
) -> None:
    signature = inspect.signature(function)
    keywords = {name: p for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(keywords) == options
    defaults = inspect.signature(check).parameters
    for name, parameter in keywords.items():
        assert parameter.default is (defaults[name].default if name in defaults else False)
        assert name in str(function.__doc__)
    assert not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def test_types_of_the_options_are_said_the_same_twice() -> None:
    parameters = inspect.signature(check).parameters
    said = {
        name: getattr(hint, "__forward_arg__", hint) for name, hint in BatchOptions.__annotations__.items()
    }
    assert said == {name: parameters[name].annotation for name in said}


def test_an_engine_that_lacks_features_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_engine("numpy"), "features", frozenset())
    given: dict[str, Any] = {
        "window": (1, None),
        "softcap": 3.0,
        "alibi_slopes": np.ones(4),
        "sinks": np.ones(4),
        "mask": np.ones((6, 6), bool),
        "key_lengths": [6, 6],
        "dropout": 0.1,
        "block_table": [[0], [1]],
    }
    for name, value in given.items():
        options = {name: value}
        if name == "dropout":
            options["dropout_seed"] = 1
        lacking = {"block_table": "block_table, key_lengths", "alibi_slopes": "alibi"}.get(name, name)
        if name == "block_table":
            options["key_lengths"] = [6, 6]
        with pytest.raises(UnsupportedError) as error:
            attention(X, X, X, engine="numpy", **options)
        assert str(error.value) == f"engine 'numpy' cannot run this: the engine has no {lacking}"
    with pytest.raises(UnsupportedError, match="the engine has no varlen"):
        attention_varlen(T, T, T, CU, CU, engine="numpy")


def test_what_turns_nothing_on_asks_for_no_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_engine("numpy"), "features", frozenset())
    nothing: dict[str, Any] = {
        "window": [None, np.int64(0)],
        "dropout": 0,
        "dropout_seed": 7,
        "softcap": None,
        "mask": None,
    }
    assert np.array_equal(
        attention(X, X, X, causal=True, engine="numpy", **nothing),
        attention(X, X, X, causal=True, engine="numpy"),
    )
