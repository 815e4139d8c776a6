"""Whether an engine changed its inputs, which it must not write to."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashbench.block_mask import BlockMask
from flashbench.engines import Forward


def is_same(now: Any, before: Any) -> bool:
    """Whether two arrays, block masks or Nones are equal; NaN equals NaN.

    Axes that `now` is broadcast along are compared once.
    """
    if isinstance(now, BlockMask):
        return changed(now, before) is None
    if now is None:
        return before is None
    one, other = np.asarray(now), np.asarray(before)
    if one.shape != other.shape:
        return False
    own = tuple(slice(1) if step == 0 else slice(None) for step in one.strides)
    one, other = one[own], other[own]
    if np.array_equal(one, other):
        return True
    return one.dtype.kind == "f" and np.array_equal(one, other, equal_nan=True)


def changed(now: Any, before: Any) -> str | None:
    """The name of the first field of a named tuple of arrays that changed, or None."""
    for name, one, other in zip(now._fields, now, before, strict=True):
        if not is_same(one, other):
            return str(name)
    return None


class Given:
    """The o and lse of a forward, as they were before the backward.

    Digests, because copies would double the memory that is measured.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._before = _digests(forward)

    def changed(self) -> str | None:
        """`o` or `lse`, whichever changed, or None."""
        now = _digests(self._forward)
        return next((name for name, digest in self._before.items() if now[name] != digest), None)


def _digests(forward: Forward) -> dict[str, bytes]:
    named = {"o": forward.o, "lse": forward.lse}
    return {name: _digest(x) for name, x in named.items() if isinstance(x, np.ndarray)}


def _digest(x: NDArray[Any]) -> bytes:
    digest = hashlib.blake2b()
    for part in x:  # tobytes copies a view: one part at a time
        digest.update(part.tobytes())
    return digest.digest()
