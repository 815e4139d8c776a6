"""The table of paths: the best that the target CPU has, for every dtype."""

import pytest

from flashbench.codegen.isa import cpu_features
from flashbench.dtypes import DTYPES
from flashbench.errors import ConfigError
from flashbench.kernels.probes import peak
from flashbench.kernels.products import paths
from flashbench.kernels.products.paths import PATHS, Path, path_of


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_a_path_that_this_cpu_can_run(dtype):
    path = path_of(dtype)
    assert dtype in path.dtypes
    assert path.needs <= cpu_features()


def test_every_path_has_a_probe_of_its_peak():
    assert all(callable(getattr(peak, path.peak)) for path in PATHS.values())


def test_names_of_products_are_those_of_their_paths():
    # Cached machine code is told apart by them.
    assert [path.product.name for path in PATHS.values()] == list(PATHS)


def test_a_path_whose_instructions_are_missing_is_passed_over(monkeypatch):
    fma = PATHS["fma"]
    better = Path(fma.product, ("float32",), frozenset({"no_such_instruction"}), "fma_burst", fma.decode)
    monkeypatch.setattr(paths, "PATHS", {"better": better, "fma": fma})
    path_of.cache_clear()
    assert path_of("float32") is fma
    monkeypatch.setattr(paths, "usable_features", lambda: {"no_such_instruction"})
    path_of.cache_clear()
    assert path_of("float32") is better
    assert path_of("float64") is fma
    path_of.cache_clear()


def test_a_path_can_be_named():
    assert path_of("bfloat16", "convert") is PATHS["convert"]


def test_an_unknown_path_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"there is no path 'fast'; known: .*fma"):
        path_of("float32", "fast")


def test_a_path_that_does_not_compute_the_dtype_is_refused():
    with pytest.raises(ConfigError, match="path fma computes float32, float64, not bfloat16"):
        path_of("bfloat16", "fma")


def test_a_path_of_another_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(
        paths, "PATHS", {"better": PATHS["fma"]._replace(needs=frozenset({"no_such_instruction"}))}
    )
    path_of.cache_clear()
    with pytest.raises(ConfigError, match="path better cannot be used: this CPU lacks no_such_instruction"):
        path_of("float32", "better")
    path_of.cache_clear()
