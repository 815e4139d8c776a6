"""Windows in a study: `none`, a number for both sides, or a pair of left and right."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from flashbench.problem import Window

NO_WINDOW: Literal["none"] = "none"
WindowSide = int | Literal["none"]
# A pair is a list, as in TOML and JSON.
WindowSetting = int | Literal["none"] | Annotated[list[WindowSide], msgspec.Meta(min_length=2, max_length=2)]


def window_of(setting: WindowSetting, *, causal: bool) -> Window:
    """Keys that a query sees on its left and right; with a causal mask the right side is 0.

    >>> window_of(256, causal=False), window_of([256, "none"], causal=True), window_of("none", causal=True)
    ((256, 256), (256, 0), (None, None))
    """
    sides = setting if isinstance(setting, list) else [setting, setting]
    left, right = (None if side == NO_WINDOW else side for side in sides)
    if causal:
        right = None if left is None else 0
    return left, right
