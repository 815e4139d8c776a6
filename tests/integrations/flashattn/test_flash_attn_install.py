"""`install`: what `import flash_attn` finds, what is undone, and that it hides no real package silently."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from flashbench.errors import EngineError
from flashbench.integrations import flash_attn as ours
from flashbench.integrations.flash_attn import FLASH_ATTN_VERSION, bert_padding, install, rotary, uninstall

NAMES = {
    "flash_attn": (ours, ["flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"]),
    "flash_attn.flash_attn_interface": (ours, ["flash_attn_func", "flash_attn_varlen_qkvpacked_func"]),
    "flash_attn.bert_padding": (bert_padding, ["index_first_axis", "pad_input", "unpad_input"]),
    "flash_attn.layers.rotary": (rotary, ["apply_rotary_emb", "apply_rotary_emb_func", "RotaryEmbedding"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_modules(installed: None, name: str) -> None:
    module, wanted = NAMES[name]
    found = importlib.import_module(name)
    assert all(getattr(found, function) is getattr(module, function) for function in wanted)
    assert importlib.util.find_spec(name) is not None


def test_every_function_of_ours_is_there(installed: None) -> None:
    found = importlib.import_module("flash_attn")
    functions = {name for name in ours.__all__ if name.startswith("flash_attn_")}
    assert functions <= set(vars(found))
    assert found.__version__ == FLASH_ATTN_VERSION


def test_metadata(installed: None) -> None:
    assert (
        importlib.metadata.version("flash_attn")
        == importlib.metadata.version("flash-attn")
        == FLASH_ATTN_VERSION
    )
    assert importlib.metadata.packages_distributions()["flash_attn"] == ["flash-attn"]
    assert importlib.metadata.version("numpy") != FLASH_ATTN_VERSION


def test_twice_is_once_and_uninstall_undoes_it() -> None:
    before = list(sys.meta_path)
    install()
    install()
    uninstall()
    uninstall()
    assert sys.meta_path == before
    assert not any(name.split(".")[0] == "flash_attn" for name in sys.modules)
    assert importlib.util.find_spec("flash_attn") is None
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("flash_attn")


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of that name that is not ours, imported."""
    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '2.0'\n")
    (package / "bert_padding.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("flash_attn.bert_padding")
    for name in ("flash_attn.bert_padding", "flash_attn"):
        sys.modules.pop(name, None)


def test_the_real_package_is_not_hidden(real: Any) -> None:
    with pytest.raises(EngineError, match="there already") as caught:
        install()
    assert caught.value.hint == "install(replace=True) hides it in this process"
    assert importlib.import_module("flash_attn").__version__ == "2.0"


def test_the_real_package_is_hidden_with_a_warning_and_comes_back(real: Any) -> None:
    with pytest.warns(UserWarning, match="hidden until uninstall"):
        install(replace=True)
    assert importlib.import_module("flash_attn").__version__ == FLASH_ATTN_VERSION
    uninstall()
    assert importlib.import_module("flash_attn").__version__ == "2.0"
    assert importlib.import_module("flash_attn.bert_padding") is real


def test_a_module_without_a_spec_is_the_real_package_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = types.ModuleType("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", stub)
    with pytest.raises(EngineError, match="there already"):
        install()
    with pytest.warns(UserWarning, match="hidden"):
        install(replace=True)
    uninstall()
    assert sys.modules["flash_attn"] is stub


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    install()
    assert importlib.import_module("flash_attn").__version__ == FLASH_ATTN_VERSION
    uninstall()


def test_an_installation_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, contents: Any) -> Any:
        raise RuntimeError(name)

    monkeypatch.setattr("flashbench.integrations.flash_attn.installation._module", fail)
    with pytest.raises(RuntimeError):
        install()
    assert importlib.util.find_spec("flash_attn") is None
    monkeypatch.undo()
    install()
    uninstall()


WITHOUT_TRANSFORMERS = """
import sys
sys.modules["transformers"] = None  # as if it were not installed
from flashbench.integrations.flash_attn import install
install()
import torch
from flash_attn import flash_attn_func
from flash_attn.layers import rotary
x = torch.ones(1, 2, 1, 8)
print(flash_attn_func(x, x, x).sum().item())
"""


def test_without_transformers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRANSFORMERS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "16.0\n", done.stderr
