"""A study comes from defaults, then a file, then options. Each bad value gives a one-line error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from flashbench.cli import settings
from flashbench.cli.settings import build_duel, build_study, load_study
from flashbench.cli.train_settings import build_train_study
from flashbench.errors import ConfigError, FlashbenchError
from flashbench.problem import Feature
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
        ("threads", "2", "threads", 2),
        ("threads", ["1,2", "4"], "threads", [1, 2, 4]),
        ("cpus", "0-2,6,1", "cpus", [0, 1, 2, 6]),
        ("cpus", "none", "cpus", None),
        ("seq_len_k", "4k", "seq_len_k", 4096),
        ("heads", "1,8", "heads", [1, 8]),
        ("kv_heads", "1", "kv_heads", 1),
        ("head_dim", "40,64", "head_dims", [40, 64]),
        ("dtype", "float32,float64", "dtypes", ["float32", "float64"]),
        ("causal", "yes", "causal", [True]),
        ("causal", "No", "causal", [False]),
        ("causal", "both", "causal", [False, True]),
        ("causal_alignment", "top-left", "causal_alignment", "top-left"),
        ("window", ["256"], "windows", [256]),
        ("window", ["none", "128,0", "4k"], "windows", ["none", [128, 0], 4096]),
        ("window", ["none,16"], "windows", [["none", 16]]),
        ("softcap", "50", "softcap", 50.0),
        ("alibi", True, "alibi", True),
        ("sinks", True, "sinks", True),
        ("mask", "block", "mask", "block"),
        ("dropout", "10%", "dropout", 0.1),
        ("key_lengths", "0.25,50%,1", "key_lengths", [0.25, 0.5, 1.0]),
        ("key_lengths", "100", "key_lengths", [100]),
        ("varlen", "0.5,1.0", "varlen", [0.5, 1.0]),
        ("page_size", "16", "page_size", 16),
        ("direction", "fwd,bwd,fwd+bwd", "directions", ["fwd", "bwd", "fwd_bwd"]),
        ("engine", ["flash", "numpy,standard"], "engines", ["flash", "numpy", "standard"]),
        ("block_sizes", "auto,32", "block_sizes", ["auto", 32]),
        ("path", "Convert,auto", "paths", ["convert", "auto"]),
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


@pytest.mark.parametrize(
    ("text", "threads", "cpus"),
    [
        ("threads = 2", 2, None),
        ("threads = [1, 2]", [1, 2], None),
        ('threads = "1,2"\ncpus = "0-1"', [1, 2], [0, 1]),
        ("cpus = [4, 5]", None, [4, 5]),
    ],
)
def test_a_file_names_threads_and_cpus_as_options_do(
    study_file, text: str, threads: int | list[int] | None, cpus: list[int] | None
) -> None:
    study = build_study("profile", {"config": study_file(text)})
    assert (study.threads, study.cpus) == (threads, cpus)


def test_only_a_profile_has_several_numbers_of_threads(study_file) -> None:
    with pytest.raises(ConfigError, match="a sweep is of one number of threads, not of 1, 2"):
        build_study("sweep", {"config": study_file("threads = [1, 2]")})


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
        ({"threads": "1,1"}, "threads must name each number once, not 1, 1"),
        ({"threads": "1,0"}, "--threads takes whole numbers from 1 up, such as 64 or 4k (4096), not '0'"),
        ({"cpus": "3-1"}, "--cpus takes numbers of CPUs and ranges of them, such as 0-7 or 0,2,4, not '3-1'"),
        ({"cpus": "all"}, "--cpus takes numbers of CPUs and ranges of them, such as 0-7 or 0,2,4, not 'all'"),
        ({"dtype": "float8"}, "--dtype takes float16, bfloat16, float32 or float64, not 'float8'"),
        ({"direction": "back"}, "--direction takes fwd, bwd or fwd+bwd, not 'back'"),
        ({"causal": "maybe"}, "--causal takes no, yes or both, not 'maybe'"),
        ({"causal_alignment": "left"}, "--causal-alignment takes bottom-right or top-left, not 'left'"),
        ({"block_sizes": "wide"}, "--block-sizes takes auto or whole numbers from 1 up"),
        ({"block_sizes": "32", "block_q": "32"}, "--block-sizes sets both block sizes"),
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
        (
            {"seq_len_k": "few"},
            "--seq-len-k takes whole numbers from 1 up, such as 64 or 4k (4096), not 'few'",
        ),
        (
            {"window": ["wide"]},
            "--window takes none, a whole number from 0 up, such as 256 or 4k (4096), or two of these for "
            "left and right, not 'wide'",
        ),
        ({"window": ["1,2,3"]}, "--window takes none, a whole number from 0 up"),
        ({"window": ["-1"]}, "--window takes none, a whole number from 0 up"),
        ({"window": ["64", "64"]}, "windows names 64 twice"),
        (
            {"window": ["64", "64,0"], "causal": "yes"},
            "windows names two that are the same under a causal mask, whose right side is 0",
        ),
        ({"softcap": "0"}, "--softcap takes a number above 0, such as 50 or 0.5, not '0'"),
        ({"mask": "hole"}, "--mask takes none, bool, float or block, not 'hole'"),
        ({"mask": "bool", "mask_axes": "kq"}, "mask_axes must be some of b, h, q, k in this order, not 'kq'"),
        ({"mask_axes": "hqk"}, "mask_axes say along what a mask varies: they need mask"),
        ({"dropout": "1"}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": "much"}, "--dropout takes a share such as 5% or 0.05, not 'much'"),
        ({"dropout_seed": "7"}, "dropout_seed chooses what dropout drops: it needs dropout"),
        ({"dropout": "0.1", "dropout_seed": "x"}, "--dropout-seed takes a whole number from 0 up, not 'x'"),
        (
            {"key_lengths": "1,,2"},
            "--key-lengths takes whole numbers such as 100 or 4k (4096), or shares such as 0.5 or 50%, "
            "not '1,,2'",
        ),
        (
            {"key_lengths": "0.5,2"},
            "key_lengths with a point are shares of the length, from 0 to 1, not 2",
        ),
        (
            {"key_lengths": "0.5,1", "batch": "3"},
            "key_lengths must name 1 or batch (3) lengths, not 2",
        ),
        ({"key_lengths": "200", "seq_lens": "128"}, "key_lengths must be from 0 to 128, not [200]"),
        ({"varlen": "long"}, "--varlen takes whole numbers such as 100 or 4k (4096), or shares such as 0.5"),
        (
            {"varlen": "100,200", "seq_lens": "128,256"},
            "varlen names rows, so seq_lens must be the longest (200), not 128, 256",
        ),
        ({"varlen": "0.5,1", "batch": "4"}, "varlen must name 1 or batch (4) lengths, not 2"),
        ({"page_size": "0"}, "--page-size takes whole numbers from 1 up"),
        ({"queries": "4"}, "queries are those of a step of decoding: they need decode"),
        ({"decode": True, "queries": "17"}, "queries of a step must be from 1 to 16, not 17"),
        ({"decode": True, "direction": "bwd"}, "decode is forward alone, not bwd"),
        (
            {"decode": True, "seq_len_k": "64"},
            "decode reads as many keys as seq_lens says: it takes no seq_len_k",
        ),
        ({"decode": True, "varlen": "0.5"}, "decode reads as many keys as seq_lens says: it takes no varlen"),
        (
            {"decode": True, "causal_alignment": "top-left"},
            "decode is of the last queries: causal_alignment must be bottom-right",
        ),
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
        pytest.param(
            "batch = " + "9" * 5000, " is not TOML: a whole number has too many digits", id="digits"
        ),
        pytest.param(
            "batch = 0x" + "F" * 5000, ": batch takes numbers up to 1e+18, and one", id="hexadecimal"
        ),
        ("seq_lens = [128, 99999999999999999999]", ": seq_lens takes numbers up to 1e+18, and one of them"),
        ("key_lengths = [1e300]", ": key_lengths takes numbers up to 1e+18, and one of them is larger"),
        ("timeout_s = 1e300", ": timeout_s takes numbers up to 1e+18, and one of them is larger"),
        ("timeout_s = 1e999", ": timeout_s must be above 0 and finite, not inf"),
        pytest.param("a = " + "[" * 5000 + "]" * 5000, " is not a study: its arrays are nested", id="nested"),
        ("batch = 1979-05-27", ": batch: expected `int`, got `date`"),
        ("batch = [1]", ": batch: expected `int`, got `array`"),
        ("batch = 'few'", ": batch takes whole numbers from 1 up, such as 64 or 4k (4096), not 'few'"),
        ("batch = 0", ": batch must be at least 1, not 0"),
        (
            "seq_lens = [128, 'long']",
            ": seq_lens takes whole numbers from 1 up, such as 64 or 4k (4096), not 'long'",
        ),
        ("seq_lens = []", ": seq_lens must name at least one value"),
        ("causal = 1", ": causal[0]: expected `bool`, got `int`"),
        ("causal = 'maybe'", ": causal takes no, yes or both, not 'maybe'"),
        ("dtypes = ['float8']", ": dtypes takes float16, bfloat16, float32 or float64, not 'float8'"),
        ("directions = ['up']", ": directions takes fwd, bwd or fwd+bwd, not 'up'"),
        ("block_sizes = ['wide']", ": block_sizes takes auto or whole numbers from 1 up"),
        ("repeats = 0", ": repeats must be at least 1, not 0"),
        ("seed = -1", ": seed must be at least 0, not -1"),
        ("timeout_s = nan", ": timeout_s must be above 0 and finite, not nan"),
        ("memory_budget_bytes = 0", ": memory_budget_bytes must be at least 1, not 0"),
        ("heads = [6]\nkv_heads = 4", ": num_heads (6) must be a multiple of num_kv_heads (4)"),
        ("head_dims = [64, 64]", ": head_dims names 64 twice"),
        ("windows = ['wide']", ": windows takes none, a whole number from 0 up"),
        ("windows = []", ": windows must name at least one value"),
        ("windows = [[1, 2, 3]]", ": windows[0]: expected `array` of length <= 2"),
        ("windows = [-1]", ": window_left must be at least 0, or None for no limit, not -1"),
        ("softcap = 0.0", ": softcap must be above 0 and finite, not 0.0"),
        ("mask = 'hole'", ": mask takes none, bool, float or block, not 'hole'"),
        ("mask_axes = 'k'", ": mask_axes say along what a mask varies: they need mask"),
        ("dropout = 1.0", ": dropout must be at least 0 and below 1, not 1.0"),
        ("key_lengths = []", ": key_lengths must name at least one value"),
        ("key_lengths = [-1]", ": key_lengths must be at least 0, not -1"),
        ("key_lengths = [true]", ": key_lengths[0]: expected `int | float`, got `bool`"),
        ("varlen = [0.5, 1.5]", ": varlen with a point are shares of the length, from 0 to 1, not 1.5"),
        ("page_size = 0", ": page_size must be at least 1, not 0"),
        ("decode = true\nqueries = 0", ": queries of a step must be from 1 to 16, not 0"),
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


def test_a_step_of_decoding_has_defaults_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "is_installed", lambda name: name != "torch-flash")
    study = build_study("profile", {"decode": True})
    assert (study.engines, study.heads, study.kv_heads) == (["flash"], [32], 8)
    assert (study.head_dims, study.dtypes, study.seq_lens[0], study.seq_lens[-1]) == (
        [128],
        ["float32"],
        2048,
        32768,
    )
    (first, *_) = study.points()
    assert (first.problem.seqlen_q, first.problem.seqlen_k, first.problem.causal) == (1, 2048, False)
    monkeypatch.setattr(settings, "is_installed", lambda name: True)
    assert build_study("profile", {"decode": True}).engines == ["flash", "torch-flash"]


def test_what_is_given_wins_over_the_defaults_of_decoding(study_file) -> None:
    study = build_study(
        "profile", {"decode": True, "heads": "6", "seq_lens": "64", "queries": "3", "engine": ["numpy"]}
    )
    assert (study.heads, study.kv_heads, study.seq_lens, study.engines) == ([6], None, [64], ["numpy"])
    assert study.causal == [True]  # each of the three queries does not see the keys after it
    name = study_file("decode = true\nseq_lens = [128]\nengines = ['flash']\nbatch = 2\n")
    study = build_study("profile", {"config": name})
    assert (study.seq_lens, study.kv_heads, study.dtypes) == ([128], 8, ["float32"])
    assert build_study("profile", {"config": name, "decode": False}).kv_heads is None
    assert load_study(name) == study


def test_none_turns_off_what_the_file_turns_on(study_file) -> None:
    name = study_file(
        "seq_lens = [100]\nwindows = [8]\nsoftcap = 50\nalibi = true\nsinks = true\nmask = 'bool'\n"
        "dropout = 0.1\nkey_lengths = [10]\nvarlen = [100]\npage_size = 16\nseq_len_k = 200\n"
    )
    assert build_study("profile", {"config": name}).points()[0].problem.features == set(get_args(Feature)) - {
        "key_lengths"  # packed sequences have them as part of varlen
    }
    names = ("softcap", "mask", "key_lengths", "varlen", "page_size", "seq_len_k")
    off = dict.fromkeys(names, "none") | {"window": ["none"], "alibi": False, "sinks": False}
    plain = build_study("profile", {"config": name, "dropout": "0", **off})
    assert plain.points() == Study(seq_lens=[100]).points()


def test_rows_of_packed_sequences_say_how_long_the_longest_is(study_file) -> None:
    study = build_study("profile", {"varlen": "100,1k,30"})
    assert (study.seq_lens, study.batch) == ([1024], 3)
    name = study_file("varlen = [100, 200]\n")
    assert build_study("profile", {"config": name}).seq_lens == [200]


def test_a_duel_takes_every_feature_and_a_length_of_its_own() -> None:
    asked = {"a": "flash", "b": "numpy", "aa": False, "threshold": "5%", "looks": "3", "rounds": None}
    asked |= {"python_a": None, "python_b": None}
    assert build_duel(asked).study.seq_lens == [1024]
    assert build_duel({**asked, "varlen": "20,30"}).study.seq_lens == [30]
    study = build_duel({**asked, "decode": True, "window": ["64"], "page_size": "16"}).study
    assert study.points()[0].problem.features == {"window", "block_table"}


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"), key=lambda path: path.name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_study_loads_and_says_what_it_asks(path: Path) -> None:
    if path.stem == "training":
        study = build_train_study({"config": str(path)})
    else:
        study = load_study(path)
        assert build_study(study.kind, {"config": str(path)}) == study
    assert study.title
    assert study.points()
    comment = path.read_text().split("kind =")[0]
    assert comment.startswith("# ")
    assert "?" in comment


def test_the_documented_study_is_the_default_and_all_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {
        "documented",
        "block-sizes",
        "causal",
        "long-context",
        "ci",
        "speed",
        "half",
        "half-decode",
    }
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
