"""Makes `import flash_attn` mean this package, and undoes that.

A module by that name is not enough for Transformers: it asks for the distribution's version, for a GPU, and
whether the model is on it. `install` answers these questions too.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from typing import Any

from flashbench.errors import EngineError
from flashbench.integrations.flash_attn import bert_padding, kv_cache, padded, rotary, varlen

FLASH_ATTN_VERSION = "2.8.3"  # the release whose functions these are
_NAME = "flash_attn"
_FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        padded.flash_attn_func,
        padded.flash_attn_kvpacked_func,
        padded.flash_attn_qkvpacked_func,
        varlen.flash_attn_varlen_func,
        varlen.flash_attn_varlen_kvpacked_func,
        varlen.flash_attn_varlen_qkvpacked_func,
        kv_cache.flash_attn_with_kvcache,
    )
}


def _public(module: types.ModuleType) -> dict[str, Any]:
    """What the module itself defines."""
    names = (name for name in vars(module) if not name.startswith("_"))
    return {
        name: getattr(module, name)
        for name in names
        if getattr(getattr(module, name), "__module__", None) == module.__name__
    }


_CONTENTS: dict[str, dict[str, Any]] = {
    _NAME: {"__version__": FLASH_ATTN_VERSION, **_FUNCTIONS},
    f"{_NAME}.flash_attn_interface": _FUNCTIONS,
    f"{_NAME}.bert_padding": _public(bert_padding),
    f"{_NAME}.layers": {},
    f"{_NAME}.layers.rotary": _public(rotary),
}
_undo: list[Callable[[], None]] = []  # what `uninstall` does, last first


def install(*, replace: bool = False) -> None:
    """Make `import flash_attn` mean this package in this process.

    Transformers, if it is there, takes `attn_implementation="flash_attention_2"` on the CPU then. A second
    call does nothing.

    Args:
        replace: also if the real flash-attn is installed or was imported; this warns.

    Raises:
        EngineError: the real flash-attn is there, and `replace` is not set.
    """
    if _undo:
        return
    if _is_there():
        what = "the package flash_attn is there already, and is not flashbench's"
        if not replace:
            raise EngineError(what, hint="install(replace=True) hides it in this process")
        warnings.warn(f"{what}; it is hidden until uninstall()", stacklevel=2)
    try:
        _install()
    except BaseException:
        uninstall()
        raise


def _is_there() -> bool:
    """Whether the real package is. A folder of that name without an __init__.py is none."""
    if _NAME in sys.modules:
        return True
    spec = importlib.util.find_spec(_NAME)
    return spec is not None and spec.origin is not None


def _install() -> None:
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    _undo.append(functools.partial(_put_back, before))
    for name, contents in _CONTENTS.items():
        sys.modules[name] = _module(name, contents)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, sys.modules[name])
    sys.meta_path.insert(0, _FINDER)
    _undo.append(_forget_finder)
    if importlib.util.find_spec("transformers") is not None:
        from flashbench.integrations.flash_attn.transformers import accept

        _undo.append(accept())


def _forget_finder() -> None:
    if _FINDER in sys.meta_path:  # somebody else may have set it anew
        sys.meta_path.remove(_FINDER)


def uninstall() -> None:
    """Undo `install`. Code that imported functions by name keeps them."""
    while _undo:
        _undo.pop()()


def _is_ours(name: str) -> bool:
    return name == _NAME or name.startswith(f"{_NAME}.")


def _put_back(before: dict[str, types.ModuleType]) -> None:
    for name in list(sys.modules):
        if _is_ours(name):
            del sys.modules[name]
    sys.modules.update(before)


def _module(name: str, contents: dict[str, Any]) -> types.ModuleType:
    is_package = any(other.startswith(f"{name}.") for other in _CONTENTS)
    module = types.ModuleType(name, "flash-attention's interface, computed on the CPU by flashbench.")
    module.__spec__ = ModuleSpec(name, None, origin="flashbench", is_package=is_package)
    if is_package:
        module.__path__ = []
    vars(module).update(contents)
    return module


class _Distribution(importlib.metadata.Distribution):
    """What `importlib.metadata` says of flash-attn."""

    def read_text(self, filename: str) -> str | None:
        """The texts that a wheel's metadata has at least."""
        return {
            "METADATA": f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {FLASH_ATTN_VERSION}\n",
            "top_level.txt": f"{_NAME}\n",
        }.get(filename)

    def locate_file(self, path: Any) -> Any:
        """There are no files."""
        raise FileNotFoundError(path)


class _Finder(importlib.metadata.DistributionFinder):
    """Finds that distribution, and no module."""

    def find_spec(self, *_: Any) -> None:
        """Leave modules to others: ours are in sys.modules."""

    def find_distributions(self, context: Any = None) -> Iterator[importlib.metadata.Distribution]:
        """The distribution, if it is asked for, or all are."""
        name = getattr(context, "name", None)
        if name is None or name.replace("_", "-").lower() == "flash-attn":
            yield _Distribution()


_FINDER = _Finder()
