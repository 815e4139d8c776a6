"""The kernel of the engine `hf-kernel`: which one FLASHBENCH_HF_KERNEL names, and how a call is put to it."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from flashbench.errors import EngineError, MissingError
from flashbench.problem import AttentionProblem

VARIABLE = "FLASHBENCH_HF_KERNEL"
FUNCTION = "flash_attn_func"
_EXAMPLE = "kernels-community/flash-attn2"
# What Transformers 5.24 loads with PyTorch 2.10 and later, where its user names no revision. Of others, 1.
_VERSIONS = {_EXAMPLE: 4}
_REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


class Source(NamedTuple):
    """Where a kernel is. Exactly one of folder and repository is not None."""

    folder: Path | None = None  # of its Python package, absolute
    repository: str | None = None  # owner/name on the Hugging Face hub
    revision: str | None = None  # of the repository; None: its version decides

    @property
    def name(self) -> str:
        """Short enough for a table."""
        if self.folder is not None:
            return self.folder.name
        return f"{self.repository}@{self.revision}" if self.revision else f"{self.repository}"

    @property
    def chosen(self) -> dict[str, Any]:
        """The revision or version for `kernels.get_kernel`, which since 0.15 wants one of them."""
        if self.revision is not None:
            return {"revision": self.revision}
        return {"version": _VERSIONS.get(self.repository or "", 1)}


def chosen_source() -> Source:
    """The one that the environment names. There is no default: nothing is downloaded and run unasked.

    Raises MissingError if it names none, and EngineError if that is neither a folder with a Python package
    nor a repository.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        raise MissingError(
            f"engine 'hf-kernel' needs {VARIABLE}, which is not set: it names the kernel",
            hint=f"{VARIABLE}={_EXAMPLE}, or a folder that holds a kernel's Python package",
        )
    folder = Path(os.path.expanduser(value))
    if folder.is_dir():
        folder = folder.resolve()
        if not (folder / "__init__.py").is_file():
            raise EngineError(
                f"{VARIABLE}: {value} is no Python package: it has no __init__.py", hint=_builds(folder)
            )
        return Source(folder=folder)
    named = _REPOSITORY.fullmatch(value)
    if named is None:
        raise EngineError(
            f"{VARIABLE} must name a folder that is there, or a repository of the hub as owner/name or"
            f" owner/name@revision, not {value!r}"
        )
    return Source(repository=named["name"], revision=named["revision"])


def _builds(folder: Path) -> str | None:
    """Which folders inside could be meant: a repository has one for each platform."""
    inside = sorted(
        found.parent for found in (*folder.glob("*/__init__.py"), *folder.glob("build/*/__init__.py"))
    )
    inside = [each for each in inside if "cpu" in each.name] or inside
    return f"name one of its builds: {', '.join(map(str, inside))}" if inside else None


def without_package() -> MissingError:
    """A repository is named, and what loads it is not installed."""
    return MissingError(
        "engine 'hf-kernel' needs the package 'kernels', which is not installed",
        hint=f"pip install kernels, or set {VARIABLE} to a folder that holds the kernel's Python package",
    )


def load(source: Source) -> Callable[..., Any]:
    """The kernel's flash_attn_func. Raises EngineError if it cannot be loaded or there is none."""
    try:
        module = _import(source.folder) if source.folder is not None else _download(source)
    except EngineError:
        raise
    except Exception as error:  # the kernel's own code runs, or the hub answers
        first_line = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"{VARIABLE}: {source.name} does not load: {type(error).__name__}: {first_line}",
            hint=f"{VARIABLE} may also name a folder with a kernel's Python package",
        ) from error
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        raise EngineError(
            f"{VARIABLE}: {source.name} has no function {FUNCTION}",
            hint="the engine calls kernels with flash-attention's interface",
        )
    found: Callable[..., Any] = function
    return found


def _import(folder: Path) -> ModuleType:
    """The package in the folder, under a name of its own, as `kernels` imports it."""
    name = f"hf_kernel_{abs(hash(str(folder)))}"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _download(source: Source) -> ModuleType:
    """The build of the repository that suits this machine, from the hub or its cache."""
    try:
        from kernels import get_kernel
    except ModuleNotFoundError as error:
        if error.name != "kernels":
            raise
        raise without_package() from error
    module: ModuleType = get_kernel(source.repository, **source.chosen)
    return module


def options_of(problem: AttentionProblem) -> dict[str, Any]:
    """The arguments of flash_attn_func that the problem asks for by number; slopes are an array."""
    options: dict[str, Any] = {}
    if problem.dropout:
        options["dropout_p"] = problem.dropout
    if problem.softmax_scale is not None:
        options["softmax_scale"] = problem.softmax_scale
    if problem.causal:
        options["causal"] = True
    if "window" in problem.features:
        left, right = problem.window
        options["window_size"] = (-1 if left is None else left, -1 if right is None else right)
    if problem.softcap is not None:
        options["softcap"] = problem.softcap
    return options
