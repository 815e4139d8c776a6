"""`import flashbench`: every name exists, and nothing heavy is loaded before its first use."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import flashbench


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_flashbench_loads_neither_numpy_nor_numba() -> None:
    loaded = loaded_after("import flashbench; flashbench.__version__; flashbench.AttentionError")
    assert not loaded & {"numpy", "numba", "llvmlite", "scipy", "torch"}


@pytest.mark.parametrize(
    "use",
    [
        "flashbench.attention(x, x, x, engine='numpy')",
        "flashbench.KVCache(1, 1, 3), flashbench.PagedKVCache(1, 1, 3)",
        "flashbench.merge_attention(x, x[..., 0]), flashbench.attention_varlen",
        "flashbench.BlockMask.from_mask(x > 0), flashbench.alibi_slopes(8)",
    ],
)
def test_what_needs_no_kernel_does_not_load_numba(use: str) -> None:
    code = f"import flashbench, numpy; x = numpy.ones((1, 2, 3)); {use}"
    assert not loaded_after(code) & {"numba", "llvmlite", "torch"}


@pytest.mark.parametrize("name", flashbench.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(flashbench, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(flashbench)


def test_public_names_are_sorted_and_none_is_missing() -> None:
    assert flashbench.__all__ == sorted(flashbench.__all__, key=lambda name: (not name[0].isupper(), name))
    assert set(flashbench.__all__) == {*flashbench._HOMES, "__version__"}


def test_a_module_does_not_hide_a_function() -> None:
    import flashbench.functional
    import flashbench.modules

    assert callable(flashbench.attention)


def test_the_version_is_the_installed_one() -> None:
    assert flashbench.__version__ == importlib.metadata.version("flashbench")


def test_an_unknown_name_is_an_attribute_error() -> None:
    unknown = "atention"
    with pytest.raises(AttributeError, match="module 'flashbench' has no attribute 'atention'"):
        getattr(flashbench, unknown)
