"""Kernels of Hugging Face's hub: what they are asked, what they refuse, and where they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from helpers import hf_kernels
from helpers.support import assert_close, assert_engine_is_exact

from flashbench.engines import Ran, Settings, get_engine, get_outline, refusal
from flashbench.engines.peers.hf_source import Source, chosen_source, options_of
from flashbench.errors import EngineError, MissingError
from flashbench.extras import make_extras
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.studies.engine_list import probe
from flashbench.tolerances import tolerance_for

pytest.importorskip("torch")
SETTINGS = Settings(num_threads=1)


@pytest.fixture
def choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`choose(source)`: the engine of that kernel."""

    def engine(source: str):
        hf_kernels.choose(source, tmp_path / "torch-cpu", monkeypatch)
        return get_engine("hf-kernel")

    return engine


PLAIN = [
    AttentionProblem.of(1, head_dim=1),
    AttentionProblem.of(33, seqlen_k=70, batch=2, num_heads=4, num_kv_heads=2, head_dim=17),
    AttentionProblem.of(13, seqlen_k=29, num_heads=2, causal=True),
    AttentionProblem.of(29, seqlen_k=13, num_heads=2, causal=True),  # the first rows see no key
    AttentionProblem.of(20, softmax_scale=-0.2, causal=True),
    AttentionProblem.of(30, window=(4, 2)),
    AttentionProblem.of(30, seqlen_k=40, window=(None, 3)),
    AttentionProblem.of(30, window=(5, None), causal=True),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("problem", PLAIN, ids=str)
def test_matches_the_oracle(problem: AttentionProblem, dtype: str, choose) -> None:
    engine = choose(hf_kernels.RIGHT)
    problem = msgspec.structs.replace(problem, dtype=dtype)
    assert refusal(engine, problem, "bwd") is None
    assert_engine_is_exact(engine, problem, SETTINGS)


def test_softcap_and_slopes_reach_the_kernel(choose) -> None:
    engine = choose(hf_kernels.RIGHT)
    problem = AttentionProblem.of(
        20, seqlen_k=31, batch=2, num_heads=4, num_kv_heads=2, head_dim=8, softcap=2.0, alibi=True
    )
    (q, k, v, do), extras = problem.make_inputs(), make_extras(problem)
    kept = engine.forward(problem, SETTINGS, q, k, v, extras=extras, keep=True)
    assert_close(kept.o, attention_reference(problem, q, k, v, extras)[0], tolerance_for("float64", "o"))
    exact = attention_backward_reference(problem, do, q, k, v, extras)
    for forward in (kept, kept._replace(saved=None)):
        found = engine.backward(problem, SETTINGS, do, q, k, v, forward, extras=extras)
        for ours, expected in zip(found, exact, strict=True):
            assert np.abs(ours - expected).max() < 1e-12
    assert engine.kernel(problem, "fwd") == Ran("torch-cpu")


def test_arguments_are_those_that_differ_from_their_defaults() -> None:
    assert options_of(AttentionProblem.of(8)) == {}
    assert options_of(AttentionProblem.of(8, causal=True)) == {"causal": True}
    every = AttentionProblem.of(8, softmax_scale=0.5, window=(None, 3), softcap=2.0, dropout=0.25)
    assert options_of(every) == {
        "dropout_p": 0.25,
        "softmax_scale": 0.5,
        "window_size": (-1, 3),
        "softcap": 2.0,
    }


def test_what_the_interface_cannot_express_is_refused_in_words(choose) -> None:
    engine = choose(hf_kernels.RIGHT)
    refused = {
        "the engine has no mask": AttentionProblem.of(8, mask="bool"),
        "the engine has no key_lengths": AttentionProblem.of(8, key_lengths=(5,)),
        "the engine has no sinks": AttentionProblem.of(8, sinks=True),
        "the engine has no dropout": AttentionProblem.of(8, dropout=0.5),
        "flash_attn_func has one head_dim, so head_dim_v must equal it, not 32 and 64": AttentionProblem.of(
            8, head_dim_v=32
        ),
        "flash_attn_func aligns bottom-right: top-left is the same only when seqlen_q equals seqlen_k, not "
        "for 8 and 9": AttentionProblem.of(8, seqlen_k=9, causal=True, causal_alignment="top-left"),
    }
    for reason, problem in refused.items():
        assert refusal(engine, problem, "fwd") == reason
        assert refusal(get_outline("hf-kernel"), problem, "fwd") == reason


def test_what_a_kernel_raises_for_is_refused_in_its_words(choose) -> None:
    engine = choose(hf_kernels.CHOOSY)
    reason = refusal(engine, AttentionProblem.of(8, dtype="float32"), "fwd")
    assert reason == "torch-cpu refuses: RuntimeError: expected bfloat16, got torch.float32"
    half = AttentionProblem.of(40, num_heads=4, num_kv_heads=2, head_dim=16, dtype="bfloat16")
    assert refusal(engine, half, "fwd") is None
    assert refusal(engine, half, "bwd") == (
        "torch-cpu has no backward: autograd knows no gradient of its result"
    )
    capped = refusal(engine, msgspec.structs.replace(half, softcap=3.0), "fwd")
    assert capped is not None
    assert capped.startswith("torch-cpu refuses: TypeError: flash_attn_func() got an unexpected keyword")
    assert engine.forward(half, SETTINGS, *half.make_inputs()[:3]).o.shape == (1, 4, 40, 16)


def test_only_a_kernel_that_ignores_dropout_is_asked_for_it(choose) -> None:
    assert "dropout" in choose(hf_kernels.SILENT).features


@pytest.mark.parametrize("source", [hf_kernels.RIGHT, hf_kernels.CHOOSY])
def test_one_that_draws_or_refuses_it_is_not(source: str, choose) -> None:
    assert "dropout" not in choose(source).features


@pytest.mark.parametrize(
    ("value", "source", "chosen"),
    [
        (
            "kernels-community/flash-attn2",
            Source(repository="kernels-community/flash-attn2"),
            {"version": 4},
        ),
        ("me/mine", Source(repository="me/mine"), {"version": 1}),
        ("me/my.kernel@v2", Source(repository="me/my.kernel", revision="v2"), {"revision": "v2"}),
    ],
)
def test_a_repository_is_named_as_in_transformers(
    value: str, source: Source, chosen: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_kernels.name(value, monkeypatch)
    assert chosen_source() == source
    assert chosen_source().chosen == chosen


def fails(monkeypatch: pytest.MonkeyPatch, value: str, error: str) -> EngineError:
    """The error that the name of a kernel leads to."""
    hf_kernels.name(value, monkeypatch)
    with pytest.raises(EngineError, match=error) as caught:
        get_engine("hf-kernel")
    return caught.value


@pytest.mark.parametrize("value", ["nowhere", "/no/such/folder", "../gone", "a/b/c", "me/mine@"])
def test_a_name_of_nothing_is_told(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, value, f"must name a folder that is there, or a repository .*, not '{value}'")


def test_a_repository_on_disk_names_its_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for build in ("torch213-cxx11-cpu-x86_64-linux", "torch213-cxx11-cu130-x86_64-linux"):
        hf_kernels.make(hf_kernels.RIGHT, tmp_path / "build" / build)
    error = fails(monkeypatch, str(tmp_path), "is no Python package: it has no __init__.py")
    assert error.hint == f"name one of its builds: {tmp_path}/build/torch213-cxx11-cpu-x86_64-linux"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fails(monkeypatch, str(empty), "is no Python package").hint is None


def test_a_kernel_without_the_function_or_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hf_kernels.make("flash_attn_varlen_func = print", tmp_path / "varlen")
    error = fails(monkeypatch, str(folder), "varlen has no function flash_attn_func")
    assert error.hint == "the engine calls kernels with flash-attention's interface"
    broken = hf_kernels.make("from ._compiled import fwd", tmp_path / "broken")
    fails(monkeypatch, str(broken), "broken does not load: ModuleNotFoundError: No module named 'hf_kernel_")


def test_without_the_package_kernels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hf_kernels.name("me/mine", monkeypatch)
    monkeypatch.setitem(sys.modules, "kernels", None)
    for find in (get_engine, get_outline):
        with pytest.raises(EngineError, match="needs the package 'kernels', which is not installed") as e:
            find("hf-kernel")
        assert (e.value.hint or "").startswith("pip install kernels, or set FLASHBENCH_HF_KERNEL to a folder")


FAKE = """\
from pathlib import Path
from types import SimpleNamespace

from flashbench.integrations.flash_attn import flash_attn_func


def get_kernel(repo_id, *, revision=None, version=None):
    with Path(__file__).with_name("asked").open("a") as file:
        print(repo_id, revision, version, file=file)
    if repo_id == "me/other":
        raise ValueError("not trusted\\nmore")
    return SimpleNamespace(flash_attn_func=flash_attn_func)
"""


def test_the_repository_reaches_get_kernel_in_workers(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{tmp_path}")
    hf_kernels.name("me/mine@main", monkeypatch)
    once = ("-n", "16", "--rounds", "1", "--repeats", "1", "--no-memory", "--json", str(tmp_path / "r.json"))
    assert command("profile", "-e", "hf-kernel", *once).returncode == 0
    assert set((tmp_path / "asked").read_text().splitlines()) == {"me/mine main None"}
    results = msgspec.json.decode((tmp_path / "r.json").read_bytes())
    assert [row["kernel"] for row in results["measurements"]] == ["me/mine@main"]
    (process,) = results["processes"].values()
    assert process["environment"]["FLASHBENCH_HF_KERNEL"] == "me/mine@main"


def test_transformers_own_repository_has_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def get_kernel(repo_id: str, *, version: int) -> SimpleNamespace:
        asked.append((repo_id, version))
        return SimpleNamespace(flash_attn_func=lambda q, k, v, **_: v)

    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=get_kernel))
    hf_kernels.name("kernels-community/flash-attn2", monkeypatch)
    assert get_engine("hf-kernel").summary.startswith("flash_attn_func of kernels-community/flash-attn2, ")
    assert asked == [("kernels-community/flash-attn2", 4)]


def test_nothing_is_downloaded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the package: without a name, the engine is not there."""
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=None))
    hf_kernels.name(None, monkeypatch)
    for get in (get_engine, get_outline):
        with pytest.raises(MissingError, match="needs FLASHBENCH_HF_KERNEL, which is not set"):
            get("hf-kernel")
    facts = probe("hf-kernel")
    assert facts.state == "not installed"
    assert facts.hint is not None
    assert "FLASHBENCH_HF_KERNEL=kernels-community/flash-attn2" in facts.hint


def test_what_the_hub_says_is_told(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{tmp_path}")
    hf_kernels.name("me/other", monkeypatch)
    done = command("verify", "-e", "hf-kernel", "--case", "square-2")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: FLASHBENCH_HF_KERNEL: me/other does not load: ValueError: not trusted",
        "hint: FLASHBENCH_HF_KERNEL may also name a folder with a kernel's Python package",
    ]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flashbench", *words], capture_output=True, text=True)
