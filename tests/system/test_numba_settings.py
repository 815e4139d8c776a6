"""Settings of Numba with which kernels cannot run give one line that names them, in library and commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flashbench.cli.app import main
from flashbench.codegen import isa
from flashbench.errors import ConfigError
from flashbench.system.cores import available_cores
from flashbench.system.numba_settings import check_numba_settings, numba_num_threads

REFUSED = {
    "NUMBA_NUM_THREADS": ["0", "-1", "many", " ", "1.5"],
    "NUMBA_DISABLE_JIT": ["1", "2", "yes"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_a_setting_without_kernels_is_named_with_its_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        check_numba_settings()
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert caught.value.hint is not None


def test_what_numba_takes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    monkeypatch.setenv("NUMBA_NUM_THREADS", " 1 ")
    check_numba_settings()
    assert (numba_num_threads(), available_cores()) == (1, 1)
    for name in REFUSED:
        monkeypatch.setenv(name, "")  # a Dockerfile unsets a variable like this
    check_numba_settings()
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    assert numba_num_threads() is None


@pytest.mark.parametrize(
    "command",
    [["profile", "-n", "64", "--threads", "1"], ["engines"]],
    ids=" ".join,
)
def test_commands_exit_2_in_a_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    assert main(command) == 2
    assert (
        "error: NUMBA_NUM_THREADS must be a whole number of threads, at least 1, not '0'"
        in capsys.readouterr().err
    )


CODE = """
import sys
from flashbench.errors import ConfigError
try:
    {action}
except ConfigError as error:
    print(error)
print("numba" in sys.modules)
"""
CALL = "import numpy, flashbench; x = numpy.ones((1, 1, 2, 2)); flashbench.attention(x, x, x)"


@pytest.mark.parametrize(
    ("setting", "action", "said", "loaded"),
    [
        ("NUMBA_NUM_THREADS=0", CALL, "NUMBA_NUM_THREADS must be ", False),
        ("NUMBA_DISABLE_JIT=1", CALL, "NUMBA_DISABLE_JIT='1': ", False),
        (
            "",
            f"import numba; numba.config.DISABLE_JIT = 1; {CALL}",
            "numba.config.DISABLE_JIT is set: ",
            True,
        ),
        ("NUMBA_CPU_NAME=nonsense", CALL, "NUMBA_CPU_NAME: 'nonsense' is not a recognized processor", True),
        ("NUMBA_CPU_FEATURES=+nonsense", CALL, "NUMBA_CPU_FEATURES: '+nonsense' is not a recognized f", True),
        ("NUMBA_CPU_FEATURES=avx2", CALL, "NUMBA_CPU_FEATURES must be flags, + or - before each", True),
    ],
)
def test_a_call_says_it_instead_of_numba_or_llvm(setting: str, action: str, said: str, loaded: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    name, _, value = setting.partition("=")
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(action=action)],
        env=environment | ({name: value} if name else {}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.startswith(said), done.stderr
    assert done.stdout.endswith(f"\n{loaded}\n")
    assert done.stderr == ""


def test_vectors_that_this_cpu_lacks_are_refused_before_they_end_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isa.config, "CPU_NAME", "skylake-avx512")
    monkeypatch.setattr(isa.config, "CPU_FEATURES", None)
    monkeypatch.setattr(isa.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(isa, "_complaint", lambda name, features: "")
    monkeypatch.setattr(isa, "_host_features", lambda: {"avx2", "fma", "avx512f"})
    with pytest.raises(ConfigError, match="avx512dq, avx512vl, which this CPU does not have"):
        isa._check_target()
    monkeypatch.setattr(isa, "_host_features", lambda: {"avx2", "fma", "avx512f", "avx512dq", "avx512vl"})
    isa._check_target()


def test_features_have_one_name_however_llvm_spells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    by_llvm = "avx512bf16", "avx512fp16", "amx-bf16", "amx-tile", "sse4.1", "avx512f", "avx2", "f16c", "fma"
    by_archspec = (
        "avx512_bf16",
        "avx512_fp16",
        "amx_bf16",
        "amx_tile",
        "sse4_1",
        "avx512f",
        "avx2",
        "f16c",
        "fma",
    )
    monkeypatch.setattr(
        isa.llvm, "get_host_cpu_features", lambda: dict.fromkeys(by_llvm, True) | {"sse4a": False}
    )
    monkeypatch.setattr(isa.config, "CPU_NAME", None)
    monkeypatch.setattr(isa.config, "CPU_FEATURES", None)
    assert isa.cpu_features() == set(by_archspec)
    monkeypatch.setattr(isa.config, "CPU_FEATURES", ",".join(f"+{name}" for name in by_llvm) + ",-avx512vl")
    assert isa.cpu_features() == set(by_archspec)
    # archspec tells the features of a CPU by its name.
    monkeypatch.setattr(isa.config, "CPU_FEATURES", None)
    monkeypatch.setattr(isa.config, "CPU_NAME", "sapphirerapids")
    assert {"avx512_bf16", "amx_bf16", "amx_tile", "f16c"} <= isa.cpu_features()
