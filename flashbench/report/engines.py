"""The list of engines: what each can do, and a line on what each is, or why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flashbench.features import FEATURES
from flashbench.problem import Direction, Feature
from flashbench.report.layout import NOTHING, Grid
from flashbench.studies.engine_list import EngineFacts, why_not
from flashbench.studies.engine_probe import DTYPES, LSE, ability, backward_of
from flashbench.texts import to_json

_HEADERS = ("Engine", "Library", "Forward", "Backward", "GQA", "Causal", "d_v", "lse")
_FEATURE_WORDS = {
    "fwd_float32": "f32",
    "fwd_float64": "f64",
    "gqa": "GQA",
    "causal": "causal",
    "bottom_right": "bottom-right",
    "top_left": "top-left",
    "head_dim_v": "d_v",
}
# The header of each optional feature's column; a mask has one for all of its kinds.
_OPTIONAL_HEADERS = {name: FEATURES[name].header for name in get_args(Feature)}
_MASKS = {"bool_mask": "bool", "float_mask": "float", "block_mask": "block"}
_LEGEND = (
    "f32, f64: dtypes; GQA: fewer key heads than query heads; Causal: any alignment, top-left only, or equal "
    "lengths only; d_v: another head_dim for v; lse: the logarithm of each row's softmax denominator; "
    "fwd: forward alone; all: bool, float and block masks."
)


def engines_report(engines: Sequence[EngineFacts]) -> RenderableType:
    """A table of abilities, and a line per engine and fallback."""
    grid = Grid(*_HEADERS, left=range(len(_HEADERS)))
    for facts in engines:
        grid.add_row(facts.name, *_cells(facts))
    features = Grid("Engine", *_OPTIONAL_HEADERS.values(), left=range(len(_OPTIONAL_HEADERS) + 1))
    for facts in engines:
        if facts.state == "ready":
            features.add_row(facts.name, *_features(facts))
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column()
    for facts in engines:
        style = {"ready": "", "not installed": "dim", "broken": "bold red"}[facts.state]
        text = facts.summary if facts.state == "ready" else why_not(facts)
        lines.add_row(Text(facts.name), Text(text, style=style))
        for feature, note in facts.notes.items():
            word = _FEATURE_WORDS.get(feature, feature.replace("_", " "))
            lines.add_row("", Text(f"{word}: {note}", style="dim"))
    return Group(grid, Text(), features, Text(), lines, Text(), Text(_LEGEND, style="dim"))


def engines_json(engines: Iterable[EngineFacts]) -> str:
    """Everything, with each engine's own reason for what it lacks."""
    return msgspec.json.format(to_json(list(engines)), indent=2).decode() + "\n"


def _cells(facts: EngineFacts) -> tuple[str | Text, ...]:
    if facts.state != "ready":
        style = "bold red" if facts.state == "broken" else "dim"
        return (Text(facts.state, style=style), *[NOTHING] * (len(_HEADERS) - 2))
    return (
        " ".join(filter(None, (facts.library, facts.version))) or NOTHING,
        _dtypes(facts, "fwd"),
        _dtypes(facts, "bwd"),
        _yes(facts.can("gqa")),
        _causal(facts),
        _yes(facts.can("head_dim_v")),
        _yes(facts.can(LSE)),
    )


def _features(facts: EngineFacts) -> list[str | Text]:
    return [_masks(facts) if name == "mask" else _feature(facts, name) for name in _OPTIONAL_HEADERS]


def _feature(facts: EngineFacts, name: str) -> str | Text:
    """Forward and backward; a backward that the engine has of nothing is not missed here."""
    if not facts.can(name):
        return _yes(False)
    trains = any(facts.can(ability("bwd", dtype)) for dtype in DTYPES)
    return "yes" if facts.can(backward_of(name)) or not trains else "fwd"


def _masks(facts: EngineFacts) -> str | Text:
    """The kinds it has, in groups of equal ability: `all`, `bool float`, `all fwd`."""
    words = {kind: _feature(facts, kind) for kind in _MASKS}
    can = [kind for kind in _MASKS if facts.can(kind)]
    if not can:
        return _yes(False)
    listed = "all" if len(can) == len(_MASKS) else " ".join(_MASKS[kind] for kind in can)
    return listed if all(words[kind] == "yes" for kind in can) else f"{listed} fwd"


def _dtypes(facts: EngineFacts, direction: Direction) -> str | Text:
    words = [dtype.replace("float", "f") for dtype in DTYPES if facts.can(ability(direction, dtype))]
    return " ".join(words) or _yes(False)


def _causal(facts: EngineFacts) -> str | Text:
    if facts.can("bottom_right") and facts.can("top_left"):
        return "any"
    for feature, word in (("bottom_right", "bottom-right"), ("top_left", "top-left"), ("causal", "equal")):
        if facts.can(feature):
            return word
    return _yes(False)


def _yes(can: bool) -> str | Text:
    return "yes" if can else Text("no", style="dim")
