"""The list of engines: each is probed in its own process, and a broken one is a line of the list."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers import plugins
from helpers.support import OF_LIBRARIES, available_engines

from flashbench.cli.settings import build_study
from flashbench.dtypes import DTYPES
from flashbench.engines import ENGINES, engine_names, get_engine
from flashbench.errors import EngineError
from flashbench.kernels.products.paths import path_of
from flashbench.studies import engine_list
from flashbench.studies.engine_list import PROBE_TIMEOUT_S, EngineFacts, list_engines, probe, resolve_engines
from flashbench.studies.engine_probe import LSE, OPTIONAL, SHAPES, backward_of


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken plug-ins, installed."""
    plugins.install(tmp_path, plugins.BROKEN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("import-error", "does not load: ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
        ("syntax-error", "does not load: SyntaxError: "),
        ("segfault", "killed by SIGSEGV"),
        ("exits", "does not load: SystemExit: 3"),
        ("exits-hard", "left with exit code 0x7"),
        (
            "no-engine",
            "is no engine: it lacks layout, features, unsupported, blocks, workspace_bytes, forward",
        ),
        ("no-attribute", "does not load: AttributeError: "),
        ("no-call", "does not load: TypeError: 'int' object is not callable"),
        ("raises", "does not load: RuntimeError: two lines"),
        ("unknown-layout", "has the unknown layout 'sbhd'; known: bhsd, bshd"),
        ("unsupported-raises", "ZeroDivisionError: division by zero"),
        ("overwriting", "ValueError: forward changed its input q, which is not to be written to"),
        ("wrong-forward", "TypeError: forward gave an o of type list, not an array"),
    ],
)
def test_a_broken_plug_in_is_one_line(name: str, reason: str) -> None:
    facts = probe(name)
    assert facts.state == "broken"
    assert reason in (facts.reason or "")
    assert "\n" not in (facts.reason or "")
    assert not facts.can("fwd_float64")


@pytest.mark.usefixtures("broken")
def test_one_that_hangs_is_given_up() -> None:
    facts = probe("hangs", timeout_s=5.0)
    assert facts.state == "broken"
    assert "no answer after 5 s" in (facts.reason or "")


@pytest.mark.usefixtures("broken")
def test_one_that_runs_nothing_is_ready_and_can_do_nothing() -> None:
    facts = probe("choosy")
    assert facts.state == "ready"
    assert facts.lacks["fwd_float32"] == facts.lacks["bwd_float64"] == "it is Sunday"
    assert not facts.can("gqa")
    assert not facts.can("window")
    assert not facts.can(backward_of("window"))
    assert not facts.can(LSE)


@pytest.mark.parametrize("name", OF_LIBRARIES)
def test_built_in_engines_are_ready_where_their_library_is_there(name: str) -> None:
    facts = probe(name)
    if name in available_engines():
        assert (facts.state, facts.reason) == ("ready", None)
        assert facts.library == ENGINES[name].library
        assert facts.version
        assert facts.can("fwd_float32")
        assert facts.can("causal")
    else:
        assert facts.state == "not installed"
        assert facts.hint == f"pip install 'flashbench[{ENGINES[name].extra}]'"


def test_an_engine_with_paths_names_that_of_each_dtype() -> None:
    assert probe("flash").paths == {dtype: path_of(dtype).product.name for dtype in DTYPES}
    assert probe("numpy").paths == {}


def test_shapes_are_asked_for_in_float32_where_16_bits_have_fewer() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    facts = probe("onnxruntime")
    assert facts.can("head_dim_v")
    assert facts.can("fwd_float16")
    assert (
        facts.lacks["fwd_bfloat16"] == "ONNX Runtime's CPU attention takes float32 and float16, not bfloat16"
    )


def test_what_an_engine_lacks_is_its_own_reason() -> None:
    pytest.importorskip("torch")
    flash = probe("torch-flash")
    assert "aligns top-left" in flash.lacks["bottom_right"]
    assert flash.can("top_left")
    assert "fell back to its math kernel" in flash.notes["head_dim_v"]
    math = probe("torch-math")
    assert set(math.lacks) & {*SHAPES, LSE} == {LSE}
    assert math.notes == {}


@pytest.mark.parametrize("name", OF_LIBRARIES)
def test_optional_features_are_those_that_the_engine_names(name: str) -> None:
    if name not in available_engines():
        pytest.skip(f"{name} is not installed")
    facts, features = probe(name), get_engine(name).features
    masks = {"bool_mask", "float_mask", "block_mask"}
    for feature in OPTIONAL:
        named = "mask" if feature in masks else feature
        if named not in features:
            assert facts.lacks[feature] == f"the engine has no {named}"
            assert facts.lacks[backward_of(feature)] == f"the engine has no {named}"
    for named in features:
        assert any(facts.can(feature) for feature in (masks if named == "mask" else {named}))


def test_the_list_begins_with_the_built_in_engines_and_tells_names_that_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.install(tmp_path, {"flash": "", "zebra": ""}, distribution="greedy")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(engine_list, "probe", lambda name, **_: EngineFacts(name=name, state="ready"))
    found = list_engines()
    assert [facts.name for facts in found] == [*ENGINES, "zebra", "flash"]
    assert found[-1].state == "broken"
    assert found[-1].reason == "greedy_0:E takes the name of a built-in engine"
    assert (found[-1].library, found[-1].version) == ("greedy", "1.0")


def fake_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """flash and mine are ready, zentorch is not installed, yours is broken."""
    facts = {
        "flash": EngineFacts(name="flash", state="ready"),
        "zentorch": EngineFacts(
            name="zentorch", state="not installed", reason="needs zentorch", hint="pip install zentorch"
        ),
        "mine": EngineFacts(name="mine", state="ready"),
        "yours": EngineFacts(name="yours", state="broken", reason="killed by SIGSEGV", loads=False),
    }
    monkeypatch.setattr(engine_list, "list_engines", lambda **_: list(facts.values()))
    monkeypatch.setattr(engine_list, "probe", lambda name, **_: facts[name])


@pytest.fixture
def mine_and_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plug-ins by name, and a list that was not probed."""
    plugins.install(tmp_path, {"mine": "", "yours": ""})
    monkeypatch.syspath_prepend(tmp_path)
    fake_list(monkeypatch)


@pytest.mark.usefixtures("mine_and_yours")
def test_all_is_every_engine_that_is_ready_and_a_line_for_each_other() -> None:
    assert resolve_engines(["all"]) == (
        ["flash", "mine"],
        [
            "zentorch is left out: not installed: pip install zentorch",
            "yours is left out: broken: killed by SIGSEGV",
        ],
    )


@pytest.mark.usefixtures("broken")
def test_one_that_only_raises_when_called_is_for_a_study_to_tell() -> None:
    assert resolve_engines(["wrong-forward"]) == (["wrong-forward"], [])
    with pytest.raises(EngineError, match="does not load: SystemExit: 3"):
        resolve_engines(["exits"])


@pytest.mark.usefixtures("mine_and_yours")
def test_names_stay_as_they_were_given_and_all_adds_the_rest() -> None:
    assert resolve_engines(["mine", "all", "numpy"])[0] == ["mine", "flash", "numpy"]
    assert resolve_engines(["all", "mine", "all"])[0] == ["flash", "mine"]
    assert resolve_engines(["flash", "flash"]) == (["flash", "flash"], [])


@pytest.mark.usefixtures("mine_and_yours")
def test_an_unknown_name_is_refused_before_any_engine_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    def probed(*_: object, **__: object) -> None:
        raise AssertionError("an engine was probed")

    monkeypatch.setattr(engine_list, "probe", probed)
    for names in (["mine", "unknown"], ["all", "unknown"]):
        with pytest.raises(EngineError, match="unknown engine 'unknown'; known: flash, "):
            resolve_engines(names)


@pytest.mark.usefixtures("mine_and_yours")
def test_a_broken_plug_in_that_is_asked_for_is_an_error_and_not_loaded_here() -> None:
    with pytest.raises(EngineError, match="engine 'yours' of made_up_1:E is broken: killed by SIGSEGV"):
        resolve_engines(["flash", "yours"])
    assert "yours" in engine_names()


def test_one_that_hangs_in_a_call_is_given_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (
        "import time\nfrom flashbench.engines.peers.numpy import NumpyEngine\n"
        "class E(NumpyEngine):\n    def forward(self, *a, **k):\n        time.sleep(3600)"
    )
    plugins.install(tmp_path, {"sleeps": module})
    monkeypatch.syspath_prepend(tmp_path)
    facts = probe("sleeps", timeout_s=5.0)
    assert (facts.state, facts.loads) == ("broken", False)
    assert "no answer after 5 s" in (facts.reason or "")


@pytest.mark.usefixtures("broken")
def test_a_study_s_timeout_is_one_for_asking_engines_too() -> None:
    """`build_study` passes on --timeout, or a study file's timeout_s, in place of a probe's own."""
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"'hangs' of made_up_\d+:E is broken: no answer after 2 s"):
        build_study("profile", {"engine": ["flash,hangs"], "timeout": "2"})
    assert time.monotonic() - began < PROBE_TIMEOUT_S
