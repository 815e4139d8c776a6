"""Plug-in engines with one error each. `verify` must catch every one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from flashbench.block_mask import BlockMask
from flashbench.dtypes import DTYPES, NARROWEST_FIRST
from flashbench.engines import (
    AttentionGradients,
    Engine,
    Forward,
    Layout,
    Ran,
    Settings,
    get_engine,
)
from flashbench.engines.peers.numpy import NumpyEngine
from flashbench.errors import UnsupportedError
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction
from helpers import plugins, wrong_readings
from helpers.wrong_readings import Featured


class Right:
    """Correct: flash attention under another name. Every other engine adds only its own error."""

    summary = "for tests"
    layout: Layout = "bhsd"

    def __init__(self) -> None:
        self.name = type(self).__name__
        self._flash: Engine = get_engine("flash")
        self.features = self._flash.features
        self.dtypes = NARROWEST_FIRST

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        return None

    def forward(self, *arguments: Any, **options: Any) -> Forward:
        return self._flash.forward(*arguments, **options)

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        return self._flash.backward(*arguments, **options)

    def blocks(self, *_: Any) -> tuple[int, int] | None:
        return None

    def workspace_bytes(self, *_: Any) -> int | None:
        return None

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        return None


class WrongForward(Right):
    """One number has an error that the documented tolerance would accept. Gradients are correct."""

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        if not keep:
            found.o[0, 0, -1, -1] += 3e-11 if found.o.dtype == np.float64 else 3e-4
        return found


class WrongLse(Right):
    """lse in base 2."""

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        return found if keep else found._replace(lse=found.lse / np.log(2).astype(found.lse.dtype))


class WrongDk(Right):
    """Loses the last key's gradient."""

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        gradients = super().backward(*arguments, **options)
        gradients.dk[:, :, -1] = 0.0
        return gradients


class LeakyNan(NumpyEngine):
    """Multiplies masked values by zero."""


class WrongOnlyWhenRecomputing(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        return super().forward(*arguments, keep=keep, **options)._replace(saved=keep or None)

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        gradients = super().backward(*arguments, **options)
        return gradients if arguments[-1].saved else gradients._replace(dq=-gradients.dq)


class Raising(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        raise RuntimeError("the first line\nand the second")


class Untidy(Right):
    """Writes to an input."""

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        gradients = super().backward(*arguments, **options)
        arguments[2][0, 0, 0, 0] = 7.0
        return gradients


def _inputs_by_name(arguments: tuple[Any, ...], extras: Extras) -> dict[str, Any]:
    """The arrays that an engine must not write to, by name. arguments: of a forward, or of a backward."""
    arrays = arguments[2:]  # after problem and settings
    if len(arrays) == 3:
        return {**dict(zip("qkv", arrays, strict=True)), **extras._asdict()}
    *inputs, forward = arrays
    named = dict(zip(("do", "q", "k", "v"), inputs, strict=True))
    return {**named, "o": forward.o, "lse": forward.lse, **extras._asdict()}


def _writable(x: Any) -> Any:
    """The array's memory without broadcasting, writable as it is for compiled code."""
    own = x[tuple(slice(1) if step == 0 else slice(None) for step in x.strides)]
    interface = {**own.__array_interface__, "data": (own.__array_interface__["data"][0], False)}
    return np.asarray(SimpleNamespace(__array_interface__=interface))


class WrongDtype(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        return found._replace(o=found.o.astype(np.float64))


class WrongType(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        return found._replace(lse=found.lse.tolist())


class WrongDsinks(Featured):
    """dsinks with the wrong sign."""

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        found = super().backward(*arguments, **options)
        return AttentionGradients(*found, None if found.dsinks is None else -found.dsinks, found.dmask)


class WithoutDmask(Featured):
    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        found = super().backward(*arguments, **options)
        return AttentionGradients(*found, found.dsinks)


class DmaskOfOneSequence(Featured):
    """dmask is not summed over the batch."""

    def backward(self, *arguments: Any, **options: Any) -> AttentionGradients:
        found = super().backward(*arguments, **options)
        problem, settings, *inputs, forward = arguments
        part = msgspec.structs.replace(problem, batch=1)
        first = super().backward(part, settings, *(x[:1] for x in inputs), forward, **options)
        return AttentionGradients(*found, found.dsinks, first.dmask)


class LeaksWhatIsHidden(Featured):
    """Multiplies also hidden values, by zero."""

    def forward(self, *arguments: Any, **options: Any) -> Forward:
        found = super().forward(*arguments, **options)
        with np.errstate(invalid="ignore"):
            return found._replace(o=found.o + 0 * arguments[-1].sum())


class LosesNan(Featured):
    """Takes NaN and infinities for numbers."""

    def forward(self, problem: AttentionProblem, settings: Settings, *arrays: Any, **options: Any) -> Forward:
        entry = DTYPES[problem.dtype]
        numbers = [entry.make(np.nan_to_num(entry.view(x).astype(np.float64))) for x in arrays]
        return super().forward(problem, settings, *numbers, **options)


class MeanWhereNothingIsSeen(Featured):
    """A row that sees no key gets the mean of some, as of equal scores."""

    def forward(self, *arguments: Any, **options: Any) -> Forward:
        found = super().forward(*arguments, **options)
        return found._replace(
            o=np.where(np.isneginf(found.lse)[..., np.newaxis], 0.5, found.o).astype(found.o.dtype)
        )


class ReadsHiddenKeys(Featured):
    """Adds a little of every value, also of hidden ones."""

    def forward(self, problem: AttentionProblem, *arguments: Any, **options: Any) -> Forward:
        found = super().forward(problem, *arguments, **options)
        v = DTYPES[problem.dtype].view(arguments[-1]).astype(np.float64)
        entry = DTYPES[problem.dtype]
        o = entry.view(found.o).astype(np.float64) + 0.03 * v.mean()
        return found._replace(o=entry.make(o))


class Saturating(Featured):
    """Its sums of more than 256 weights stop growing."""

    def forward(self, problem: AttentionProblem, *arguments: Any, **options: Any) -> Forward:
        found = super().forward(problem, *arguments, **options)
        entry = DTYPES[problem.dtype]
        o = entry.view(found.o).astype(np.float64) * min(1.0, 256 / problem.seqlen_k)
        return found._replace(o=entry.make(o))


class SinglePrecision(Right):
    """Rounds float64 to float32 before it computes."""

    def forward(self, problem: AttentionProblem, *arguments: Any, **options: Any) -> Forward:
        settings, *arrays = arguments
        rounded = [x.astype(np.float32).astype(x.dtype) for x in arrays]
        return super().forward(problem, settings, *rounded, **options)


class Inaccurate(Featured):
    """All its results are a little too large."""

    def forward(self, problem: AttentionProblem, *arguments: Any, **options: Any) -> Forward:
        found = super().forward(problem, *arguments, **options)
        entry = DTYPES[problem.dtype]
        return found._replace(o=entry.make(1.05 * entry.view(found.o).astype(np.float64) + 0.3))


class RaisingAtTimes(Inaccurate):
    """Raises at every second call."""

    calls = 0

    def forward(self, problem: AttentionProblem, *arguments: Any, **options: Any) -> Forward:
        type(self).calls += 1
        if type(self).calls % 2 == 0:
            raise MemoryError("at times")
        return super().forward(problem, *arguments, **options)


class UntidyWithMasks(Featured):
    """Writes to a block mask."""

    def forward(self, *arguments: Any, extras: Extras = NO_EXTRAS, **options: Any) -> Forward:
        found = super().forward(*arguments, extras=extras, **options)
        if isinstance(extras.mask, BlockMask):
            extras.mask.columns[0] += 1
        return found


class _Scribbler(Featured):
    """Writes to one input before its call; results fit the changed input."""

    def __init__(self, name: str, direction: Direction) -> None:
        super().__init__()
        self.spoils, self.direction = name, direction

    def _spoil(self, arguments: tuple[Any, ...], extras: Extras) -> None:
        target = _inputs_by_name(arguments, extras)[self.spoils]
        own = _writable(target.partial if isinstance(target, BlockMask) else target)
        if own.dtype == np.bool_:
            own[...] = ~own
        elif own.dtype == np.int64:
            own[...] = own[..., ::-1].copy()
        else:
            own[...] = 0.25

    def forward(self, *arguments: Any, extras: Extras = NO_EXTRAS, **options: Any) -> Forward:
        if self.direction == "fwd":
            self._spoil(arguments, extras)
        return super().forward(*arguments, extras=extras, **options)

    def backward(self, *arguments: Any, extras: Extras = NO_EXTRAS, **options: Any) -> AttentionGradients:
        if self.direction == "bwd":
            self._spoil(arguments, extras)
        return super().backward(*arguments, extras=extras, **options)


class OverwritingO(_Scribbler):
    """Writes to the memory of o, which it gets again for the next backward."""

    def __init__(self) -> None:
        super().__init__("o", "bwd")


class Scribbling(_Scribbler):
    """Writes to one input: by default `q` in `fwd`."""

    def __init__(self, name: str = "q", direction: Direction = "fwd") -> None:
        super().__init__(name, direction)


class Choosy(Right):
    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        return f"no backward of {problem.seqlen_q}" if direction == "bwd" else None


class RefusingLate(Right):
    def backward(self, *_: Any, **__: Any) -> AttentionGradients:
        raise UnsupportedError("no backward after all")


MODULES = {
    name: value.__module__
    for name, value in {**vars(wrong_readings), **globals()}.items()
    if isinstance(value, type)
    and value.__module__ in (wrong_readings.__name__, __name__)
    and not name.startswith("_")
}


def install(directory: Path) -> None:
    """Make a plug-in package in the directory. It offers these engines by entry points."""
    plugins.offer(directory, {name: f"{module}:{name}" for name, module in MODULES.items()}, "wrong-engines")
