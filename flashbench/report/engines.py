"""The list of engines: the abilities of each, and a line that says what it is or why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flashbench.dtypes import DTYPES
from flashbench.features import FEATURES
from flashbench.problem import Direction, Feature
from flashbench.report.grid import Grid
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.studies.engine_list import EngineFacts, State, why_not
from flashbench.studies.engine_probe import LSE, ability, backward_of
from flashbench.texts import indented_json

_HEADERS = ("Engine", "Library", "Forward", "Backward", "GQA", "Causal", "d_v", "lse")
_FEATURE_WORDS = {
    **{ability("fwd", dtype): entry.short for dtype, entry in DTYPES.items()},
    "gqa": "GQA",
    "causal": "causal",
    "bottom_right": "bottom-right",
    "top_left": "top-left",
    "head_dim_v": "d_v",
}
# The header of each optional feature's column; a mask has one for all of its kinds.
_OPTIONAL_HEADERS = {name: FEATURES[name].header for name in get_args(Feature)}
_MASKS = {"bool_mask": "bool", "float_mask": "float", "block_mask": "block"}
_TONES: Mapping[State, Tone] = {"ready": Tone.PLAIN, "not installed": Tone.QUIET, "broken": Tone.BAD}
_LEGEND = (
    f"{', '.join(entry.short for entry in DTYPES.values())}: dtypes, all: each of them; "
    "GQA: fewer key heads than query heads; "
    "Causal: any alignment, top-left only, or equal "
    "lengths only; d_v: another head_dim for v; lse: the logarithm of each row's softmax denominator; "
    "fwd: forward alone; all masks: bool, float and block; products: the path of each dtype."
)


def engines_report(engines: Sequence[EngineFacts]) -> RenderableType:
    """A table of abilities, and a line for each engine and fallback."""
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
        text = facts.summary if facts.state == "ready" else why_not(facts)
        lines.add_row(Text(facts.name), Line(text, _TONES[facts.state]))
        if facts.paths:
            lines.add_row("", Line(f"products: {_paths(facts.paths)}"))
        for feature, note in facts.notes.items():
            word = _FEATURE_WORDS.get(feature, feature.replace("_", " "))
            lines.add_row("", Line(f"{word}: {note}"))
    return Group(grid, Text(), features, Text(), lines, Text(), Line(_LEGEND))


def _paths(paths: Mapping[str, str]) -> str:
    """`bf16 amx, f32 fma`."""
    return ", ".join(f"{entry.short} {paths[dtype]}" for dtype, entry in DTYPES.items() if dtype in paths)


def engines_json(engines: Iterable[EngineFacts]) -> str:
    """Everything, with each engine's reasons for the abilities that it lacks."""
    return indented_json(list(engines)).decode()


def _cells(facts: EngineFacts) -> tuple[str | Cell, ...]:
    if facts.state != "ready":
        return (Cell(facts.state, _TONES[facts.state]), *[NOTHING] * (len(_HEADERS) - 2))
    return (
        " ".join(filter(None, (facts.library, facts.version))) or NOTHING,
        _dtypes(facts, "fwd"),
        _dtypes(facts, "bwd"),
        _yes(facts.can("gqa")),
        _causal(facts),
        _yes(facts.can("head_dim_v")),
        _yes(facts.can(LSE)),
    )


def _features(facts: EngineFacts) -> list[str | Cell]:
    return [_masks(facts) if name == "mask" else _feature(facts, name) for name in _OPTIONAL_HEADERS]


def _feature(facts: EngineFacts, name: str) -> str | Cell:
    """`yes`, `no`, or `fwd` if only the backward lacks the feature."""
    if not facts.can(name):
        return _yes(False)
    return "yes" if _trains_with(facts, name) else "fwd"


def _trains_with(facts: EngineFacts, name: str) -> bool:
    """Whether the backward has the feature too; true for an engine without any backward."""
    trains = any(facts.can(ability("bwd", dtype)) for dtype in DTYPES)
    return facts.can(backward_of(name)) or not trains


def _masks(facts: EngineFacts) -> str | Cell:
    """The kinds of mask that the engine has: `all`, `bool float`, `all fwd`."""
    can = [kind for kind in _MASKS if facts.can(kind)]
    if not can:
        return _yes(False)
    listed = "all" if len(can) == len(_MASKS) else " ".join(_MASKS[kind] for kind in can)
    return listed if all(_trains_with(facts, kind) for kind in can) else f"{listed} fwd"


def _dtypes(facts: EngineFacts, direction: Direction) -> str | Cell:
    words = [entry.short for dtype, entry in DTYPES.items() if facts.can(ability(direction, dtype))]
    return "all" if len(words) == len(DTYPES) else " ".join(words) or _yes(False)


def _causal(facts: EngineFacts) -> str | Cell:
    if facts.can("bottom_right") and facts.can("top_left"):
        return "any"
    for feature, word in (("bottom_right", "bottom-right"), ("top_left", "top-left"), ("causal", "equal")):
        if facts.can(feature):
            return word
    return _yes(False)


def _yes(can: bool) -> str | Cell:
    return "yes" if can else Cell("no", Tone.QUIET)
