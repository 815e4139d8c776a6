"""A study comes from defaults, a file over them, options over that; each bad value is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flashbench.cli.settings import build_study, load_study
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.studies.study import Study


@pytest.fixture
def study_file(tmp_path: Path):
    """Write a study file and return its name."""

    def write(text: str) -> str:
        path = tmp_path / "study.toml"
        path.write_text(text)
        return str(path)

    return write


def test_nothing_given_is_the_documented_table() -> None:
    assert build_study("profile", {"seq_lens": None, "engine": []}) == Study()


def test_a_sweep_has_defaults_of_its_own() -> None:
    study = build_study("sweep", {})
    assert study.kind == "sweep"
    assert study.engines == ["flash"]
    assert study.block_sizes == ["auto", 16, 32, 64, 128, 256]
    assert study.causal == [False, True]


@pytest.mark.parametrize(
    ("option", "given", "field", "value"),
    [
        ("seq_lens", "128, 4k,1K", "seq_lens", [128, 4096, 1024]),
        ("batch", "8", "batch", 8),
        ("heads", "1,8", "heads", [1, 8]),
        ("kv_heads", "1", "kv_heads", 1),
        ("head_dim", "40,64", "head_dims", [40, 64]),
        ("dtype", "float32,float64", "dtypes", ["float32", "float64"]),
        ("causal", True, "causal", [True]),
        ("causal", False, "causal", [False]),
        ("causal", "both", "causal", [False, True]),
        ("causal_alignment", "top-left", "causal_alignment", "top-left"),
        ("direction", "fwd,bwd,fwd+bwd", "directions", ["fwd", "bwd", "fwd_bwd"]),
        ("engine", ["flash", "numpy,standard"], "engines", ["flash", "numpy", "standard"]),
        ("block_sizes", "auto,32", "block_sizes", ["auto", 32]),
        ("threads", "2", "threads", 2),
        ("repeats", "7", "repeats", 7),
        ("rounds", "9", "rounds", 9),
        ("budget", "1.5m", "budget_s", 90.0),
        ("cold", True, "cold", True),
        ("seed", "0", "seed", 0),
        ("memory", False, "memory", False),
        ("check", False, "check", False),
        ("memory_budget", "16GiB", "memory_budget_bytes", 16 * 1024**3),
        ("timeout", "0.5", "timeout_s", 0.5),
    ],
)
def test_every_option_sets_its_field(option: str, given: Any, field: str, value: Any) -> None:
    study = build_study("profile", {option: given})
    assert getattr(study, field) == value


def test_a_file_wins_over_defaults_and_options_over_the_file(study_file) -> None:
    name = study_file("seq_lens = [64]\nbatch = 2\nheads = [4]\n")
    study = build_study("profile", {"config": name, "batch": "3"})
    assert (study.seq_lens, study.batch, study.heads, study.repeats) == ([64], 3, [4], 5)


def test_block_size_wins_over_the_file_s_block_q_and_block_k(study_file) -> None:
    name = study_file("block_q = 32\nblock_k = 64\n")
    assert [point.block_q for point in build_study("profile", {"config": name}).settings()] == [32]
    study = build_study("profile", {"config": name, "block_sizes": "16"})
    assert [(point.block_q, point.block_k) for point in study.settings()] == [(16, 16)]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"seq_lens": "128,,512"},
            "--seq-lens takes whole numbers from 1 up, such as 64 or 4k (4096), not ''",
        ),
        ({"seq_lens": "1.5"}, "--seq-lens takes whole numbers from 1 up, such as 64 or 4k (4096), not '1.5'"),
        ({"seq_lens": "0"}, "--seq-lens takes whole numbers from 1 up, such as 64 or 4k (4096), not '0'"),
        ({"seq_lens": "128,128"}, "seq_lens names 128 twice"),
        ({"seq_lens": "9" * 5000}, "--seq-lens takes whole numbers from 1 up"),
        ({"batch": "-1"}, "--batch takes whole numbers from 1 up, such as 64 or 4k (4096), not '-1'"),
        ({"dtype": "float8"}, "--dtype takes float32 or float64, not 'float8'"),
        ({"direction": "back"}, "--direction takes fwd, bwd or fwd+bwd, not 'back'"),
        ({"causal": "maybe"}, "--causal takes both, yes or no, not 'maybe'"),
        ({"causal_alignment": "left"}, "--causal-alignment takes bottom-right or top-left, not 'left'"),
        ({"block_sizes": "wide"}, "--block-size takes auto or whole numbers from 1 up"),
        ({"block_sizes": "32", "block_q": "32"}, "--block-size sets both block sizes"),
        ({"block_q": "32"}, "block_q and block_k must be given together"),
        ({"heads": "6", "kv_heads": "4"}, "num_heads (6) must be a multiple of num_kv_heads (4)"),
        ({"head_dim": "257"}, "head_dim must be at most 256, not 257"),
        (
            {"memory_budget": "much"},
            "--memory-budget must be a size such as 16GiB, 512MiB or 4096, not 'much'",
        ),
        ({"seed": "-1"}, "--seed takes a whole number from 0 up, not '-1'"),
        ({"timeout": "0"}, "--timeout takes seconds above 0, such as 600 or 0.5, not '0'"),
        ({"engine": ["flash", "flash"]}, "engines names flash twice"),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(params: dict[str, Any], said: str) -> None:
    with pytest.raises(FlashbenchError) as caught:
        build_study("profile", params)
    assert str(caught.value).startswith(said)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch = ", " is not TOML: invalid value (at end of document)"),
        ("batch = 1\nheads = [1\n", " is not TOML: "),
        ("batch = 1\nbatch = 2\n", " is not TOML: cannot overwrite a value (at line 2"),
        ("batches = 1", " has the unknown key 'batches'; known: kind, title, engines, seq_lens, batch, "),
        ("batch = '1'", ": batch: expected `int`, got `str`"),
        ("batch = 0", ": batch must be at least 1, not 0"),
        ("seq_lens = [128, 'long']", ": seq_lens[1]: expected `int`, got `str`"),
        ("seq_lens = []", ": seq_lens must name at least one value"),
        ("causal = true", ": causal: expected `array`, got `bool`"),
        ("dtypes = ['float8']", ": dtypes[0]: invalid enum value 'float8'; known: float32, float64"),
        ("directions = ['up']", ": directions[0]: invalid enum value 'up'; known: fwd, bwd, fwd_bwd"),
        ("block_sizes = ['wide']", ": block_sizes[0]: invalid enum value 'wide'; known: auto, whole numbers"),
        ("repeats = 0", ": repeats must be at least 1, not 0"),
        ("seed = -1", ": seed must be at least 0, not -1"),
        ("timeout_s = nan", ": timeout_s must be above 0 and finite, not nan"),
        ("memory_budget_bytes = 0", ": memory_budget_bytes must be at least 1, not 0"),
        ("heads = [6]\nkv_heads = 4", ": num_heads (6) must be a multiple of num_kv_heads (4)"),
        ("head_dims = [64, 64]", ": head_dims names 64 twice"),
        ("kind = 'race'", ": kind: invalid enum value 'race'; known: profile, sweep"),
        ("kind = 'sweep'", " is a study of kind 'sweep', and this command is 'profile'"),
    ],
)
def test_a_bad_study_file_is_one_line_that_names_it(study_file, text: str, said: str) -> None:
    name = study_file(text)
    with pytest.raises(ConfigError) as caught:
        build_study("profile", {"config": name})
    assert str(caught.value).startswith(f"{name}{said}")
    assert "\n" not in str(caught.value)


def test_a_near_miss_is_suggested(study_file) -> None:
    with pytest.raises(ConfigError) as caught:
        build_study("profile", {"config": study_file("seqlens = [1]")})
    assert caught.value.hint == "did you mean 'seq_lens'?"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, said in (
        (str(tmp_path / "none.toml"), f"study file {tmp_path / 'none.toml'} is not found"),
        (str(tmp_path), f"cannot read {tmp_path}: is a directory"),
        ("nul\0", "cannot read nul"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_study("profile", {"config": name})
        assert str(caught.value).startswith(said)
    (tmp_path / "latin.toml").write_bytes(b"title = '\xe9'")
    with pytest.raises(ConfigError, match="is not TOML"):
        build_study("profile", {"config": str(tmp_path / "latin.toml")})


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"), key=lambda path: path.name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_study_loads_and_says_what_it_asks(path: Path) -> None:
    study = load_study(path)
    assert study.title
    assert study.points()
    assert build_study(study.kind, {"config": str(path)}) == study
    comment = path.read_text().split("kind =")[0]
    assert comment.startswith("# ")
    assert "?" in comment


def test_the_documented_study_is_the_default_and_all_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {"documented", "block-sizes", "causal", "long-context", "ci", "speed"}
    documented = load_study(CONFIGS[0].with_name("documented.toml"))
    assert documented.points() == Study().points()


def test_a_budget_and_rounds_exclude_each_other_but_options_win_over_the_file(study_file) -> None:
    with pytest.raises(ConfigError, match="--budget decides how many rounds there are"):
        build_study("sweep", {"budget": "60s", "rounds": "3"})
    path = study_file("budget_s = 60.0\n")
    assert build_study("profile", {"config": path}).budget_s == 60.0
    assert build_study("profile", {"config": path, "rounds": "3"}).budget_s is None


@pytest.mark.parametrize("text", ["0", "0s", "-1m", "soon", "5 days", ""])
def test_a_budget_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget takes a time above 0, such as 60s, 5m or 1h, not"):
        build_study("sweep", {"budget": text})
