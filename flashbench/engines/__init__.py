"""The table of engines, and how one is found by its name.

Another package adds an engine by an entry point, whose name is the engine's and whose object is a class, or
a function, that makes an `Engine` when called without arguments:

    [project.entry-points."flashbench.engines"]
    mine = "my_package.my_module:MyEngine"

`flashbench engines` then lists it, every command takes it as `--engine mine`, and `flashbench verify
--engine mine` says whether it is exact. The Protocol `Engine` is all that it must offer; it needs no base
class. tests/example_plugin in flashbench's repository is such a package: copy it to begin.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import NamedTuple, get_args

from flashbench.engines.protocol import (
    MEMBERS,
    Array,
    AttentionGradients,
    Engine,
    Forward,
    Layout,
    Outline,
    Ran,
    Settings,
    path_taken,
    refusal,
)
from flashbench.errors import EngineError, MissingError

__all__ = [
    "ENGINES",
    "ENTRY_POINT_GROUP",
    "Array",
    "AttentionGradients",
    "BuiltIn",
    "Engine",
    "Forward",
    "Layout",
    "Outline",
    "Ran",
    "Settings",
    "check_engine_name",
    "engine_names",
    "get_engine",
    "get_outline",
    "path_taken",
    "plugins",
    "refusal",
]


class BuiltIn(NamedTuple):
    """Where the class of a built-in engine is, and which library it runs on."""

    module: str
    attribute: str
    library: str  # the distribution whose version is the engine's
    extra: str | None = None  # pip's extra that installs the library; None: always installed


# One line adds an engine.
ENGINES: Mapping[str, BuiltIn] = {
    "flash": BuiltIn("flashbench.engines.flash.engine", "FlashEngine", "numba"),
    "standard": BuiltIn("flashbench.engines.standard", "StandardEngine", "numba"),
    "numpy": BuiltIn("flashbench.engines.peers.numpy", "NumpyEngine", "numpy"),
    "torch-flash": BuiltIn("flashbench.engines.peers.torch", "TorchFlashEngine", "torch", "torch"),
    "torch-math": BuiltIn("flashbench.engines.peers.torch_math", "TorchMathEngine", "torch", "torch"),
    "flex": BuiltIn("flashbench.engines.peers.flex", "FlexEngine", "torch", "torch"),
    "zentorch": BuiltIn("flashbench.engines.peers.zentorch", "ZentorchEngine", "zentorch", "zentorch"),
    "onnxruntime": BuiltIn(
        "flashbench.engines.peers.onnxruntime", "OnnxEngine", "onnxruntime", "onnxruntime"
    ),
    "jax": BuiltIn("flashbench.engines.peers.jax", "JaxEngine", "jax", "jax"),
    "hf-kernel": BuiltIn("flashbench.engines.peers.hf_kernel", "HfKernelEngine", "torch", "torch"),
}
ENTRY_POINT_GROUP = "flashbench.engines"


def engine_names() -> list[str]:
    """Built-in names first, then the names that installed packages add by entry point."""
    return [*ENGINES, *sorted(plugins())]


def plugins() -> dict[str, EntryPoint]:
    """Entry points of other packages' engines by name, found without importing them.

    Where two packages use one name, the first package has it. No package can take a built-in name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in ENGINES:
            found.setdefault(point.name, point)
    return found


def check_engine_name(name: str) -> None:
    """Raise EngineError when no engine has this name; load nothing."""
    known = engine_names()
    if name not in known:
        raise EngineError(f"unknown engine {name!r}; known: {', '.join(known)}")


def get_outline(name: str) -> Outline:
    """The outline of the engine of that name: enough to ask about problems, not to run them.

    A peer's outline does not load its library. Loading takes seconds, starts threads, and may bind the
    calling thread to one core.

    Raises EngineError as `get_engine` does, except for an installed library that does not load.
    """
    from flashbench.engines.peers import PEERS  # here: peers import this module

    peer = PEERS.get(name)
    if peer is None:
        return get_engine(name)
    for package in peer.packages:
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # no origin: a directory of that name, not a package
            raise _missing(name, package)
    peer.check()
    return peer


def get_engine(name: str) -> Engine:
    """The engine of that name.

    Raises EngineError when the name is unknown, when its library is missing or does not load, and when its
    plug-in does not load or is no engine.
    """
    if name in ENGINES:
        return _built_in(name)
    check_engine_name(name)
    point = plugins()[name]
    where = f"engine {name!r} of {point.value}"
    try:
        plugin: Engine = point.load()()
    except (Exception, SystemExit) as error:
        raise EngineError(f"{where} does not load: {type(error).__name__}: {error}") from error
    lacking = [member for member in MEMBERS if not hasattr(plugin, member)]
    if lacking:
        raise EngineError(
            f"{where} is no engine: it lacks {', '.join(lacking)}",
            hint="what an engine must have is in flashbench/engines/protocol.py",
        )
    if plugin.layout not in get_args(Layout):
        known = ", ".join(get_args(Layout))
        raise EngineError(f"{where} has the unknown layout {plugin.layout!r}; known: {known}")
    return plugin


@cache  # one instance of each: an engine may keep what is slow to make, such as a session
def _built_in(name: str) -> Engine:
    module, attribute, library, extra = ENGINES[name]
    try:
        engine: Engine = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("flashbench"):
            raise
        raise _missing(name, error.name or library) from error
    except (ImportError, OSError) as error:  # installed, but built for another machine
        if extra is None:
            raise
        raise EngineError(f"engine {name!r} does not load: {library}: {error}") from error
    return engine


def _missing(name: str, package: str) -> MissingError:
    return MissingError(
        f"engine {name!r} needs the package {package!r}, which is not installed",
        hint=f"pip install 'flashbench[{ENGINES[name].extra}]'",
    )
