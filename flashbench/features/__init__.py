"""The table of optional features: all that is said of a feature outside its semantics, once.

The command line, study files, problem lines, exported names, the CSV and `flashbench engines` go over this
table and name no feature themselves.

To add a feature:

1. problem.py: its name in `Feature`, its fields and rules in `AttentionProblem`, its line in `features`.
   An array that comes beside q, k and v is a field of `Extras`, made by `make_extras` (extras.py).
2. Here: its entry. Its place in the table is its place in problem lines, names, columns and `--help`; the
   columns of `flashbench engines` are in the order of `Feature`.
3. studies/study.py: a field of `Study` for each key, with its type and default.
4. reference.py: its line of the oracle. studies/cases: its cases in features.py, its example in pairs.py and
   containment.py.
5. The kernels' step, and the feature's name in `features` of the engines that have it.
6. The keyword of `attention`: arguments/ (read and checked), functional.py (documented), integrations/ where
   those have it too. docs/export.md describes its columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flashbench.features import words
from flashbench.features.entry import Feature, Option, fields

if TYPE_CHECKING:
    from flashbench import problem

WINDOW = Feature(
    header="Win-\ndow",
    probes={"window": {"window": (4, 4)}},
    options=(
        Option(
            "--window",
            "windows",
            "windows",
            "N|L,R|none",
            "Keys that a query sees on either side, or left and right, such as 256 or 128,0; causal has "
            "none on the right. Give it again for more, such as none to compare with.",
            fields=(),
        ),
    ),
    words=lambda problem, unit: f"window {words.window_word(problem)}",
    name=words.window_name,
    columns=fields("window_left", "window_right"),
)
SOFTCAP = Feature(
    header="Soft-\ncap",
    probes={"softcap": {"softcap": 5.0}},
    options=(
        Option(
            "--softcap",
            "softcap",
            "above zero or none",
            "CAP|none",
            "Scores become CAP * tanh(score / CAP), such as 50.",
            fields=("softcap",),
        ),
    ),
    words=lambda problem, unit: f"softcap {problem.softcap:g}",
    name=lambda problem: [f"softcap:{problem.softcap!r}".removesuffix(".0")],
    columns=fields("softcap"),
)
ALIBI = Feature(
    header="ALiBi",
    probes={"alibi": {"alibi": True}},
    options=(
        Option(
            "--alibi/--no-alibi",
            "alibi",
            "flag",
            None,
            "Scores fall with the distance of a key, by a slope a head.",
            fields=("alibi",),
        ),
    ),
    words=lambda problem, unit: "ALiBi",
    name=lambda problem: ["alibi"],
    columns=fields("alibi"),
)
SINKS = Feature(
    header="Sinks",
    probes={"sinks": {"sinks": True}},
    options=(
        Option(
            "--sinks/--no-sinks",
            "sinks",
            "flag",
            None,
            "A logit a head joins the softmax's denominator.",
            fields=("sinks",),
        ),
    ),
    words=lambda problem, unit: "sinks",
    name=lambda problem: ["sinks"],
    columns=fields("sinks"),
)
MASK = Feature(
    header="Mask",
    # Three kinds, which engines have or lack each for itself.
    probes={
        "bool_mask": {"mask": "bool"},
        "float_mask": {"mask": "float"},
        "block_mask": {"mask": "block"},
    },
    options=(
        Option(
            "--mask",
            "mask",
            "mask",
            "KIND",
            "bool (hides pairs), float (is added to scores), block (hides blocks) or none, such as --mask "
            "bool.",
            fields=("mask",),
            words=("bool", "float", "block", "none"),
        ),
        Option(
            "--mask-axes",
            "mask_axes",
            "text",
            "AXES",
            "What the mask varies along, such as k, qk, hqk or bhqk (default qk); block needs qk.",
            fields=("mask_axes",),
        ),
        Option(
            "--mask-block",
            "mask_block",
            "whole",
            "N",
            "Queries and keys of a block of --mask block, such as 128 (default 64).",
            fields=("mask_block_q", "mask_block_k"),
        ),
    ),
    words=lambda problem, unit: words.mask_word(problem),
    name=words.mask_name,
    columns=fields("mask") | {"mask_axes": words.mask_axes, "mask_block": words.mask_block},
)
DROPOUT = Feature(
    header="Drop-\nout",
    probes={"dropout": {"dropout": 0.5}},
    options=(
        Option(
            "--dropout",
            "dropout",
            "share",
            "SHARE",
            "Probabilities that become zero, such as 10% or 0.1.",
            fields=("dropout",),
        ),
        Option(
            "--dropout-seed",
            "dropout_seed",
            "seed",
            "N",
            "Seed of which ones, such as 1 (default 0).",
            fields=("dropout_seed",),
        ),
    ),
    words=lambda problem, unit: words.dropout_word(problem),
    name=words.dropout_name,
    columns=fields("dropout") | {"dropout_seed": words.dropout_seed},
)
KEY_LENGTHS = Feature(
    header="Key\nlengths",
    probes={"key_lengths": {"key_lengths": (9,)}},
    options=(
        Option(
            "--key-lengths",
            "key_lengths",
            "lengths or none",
            "N,...|none",
            "Keys of each sequence that count, or of all: shares such as 0.25,0.5,1 (of every length), or "
            "numbers. Several set --batch.",
            fields=(),
        ),
    ),
    words=words.key_lengths_word,
    name=words.key_lengths_name,
    columns={},  # beside that of the queries, in VARLEN
)
VARLEN = Feature(
    header="Var-\nlen",
    probes={"varlen": {"batch": 2, "query_lengths": (16, 5), "key_lengths": (16, 5)}},
    options=(
        Option(
            "--varlen",
            "varlen",
            "lengths or none",
            "N,...|none",
            "Sequences of these lengths, packed end to end: shares such as 0.25,0.5,1 of every length, or "
            "numbers, which --seq-lens is then the longest of. They set --batch.",
            fields=(),
        ),
    ),
    words=words.varlen_word,
    name=words.varlen_name,
    columns={"query_lengths": words.query_lengths, "key_lengths": words.key_lengths},
)
BLOCK_TABLE = Feature(
    header="Pages",
    probes={"block_table": {"page_size": 8}},
    options=(
        Option(
            "--page-size",
            "page_size",
            "whole or none",
            "N|none",
            "Keys of a page, such as 16: k and v are a paged cache, its pages in random order.",
            fields=("page_size",),
        ),
    ),
    words=lambda problem, unit: f"pages of {problem.page_size}",
    name=lambda problem: [f"page_size:{problem.page_size}"],
    columns=fields("page_size"),
)

FEATURES: Mapping[problem.Feature, Feature] = {
    "window": WINDOW,
    "softcap": SOFTCAP,
    "alibi": ALIBI,
    "sinks": SINKS,
    "mask": MASK,
    "dropout": DROPOUT,
    "key_lengths": KEY_LENGTHS,
    "varlen": VARLEN,
    "block_table": BLOCK_TABLE,
}
# By the parameter of a command's function.
OPTIONS: Mapping[str, Option] = {
    option.parameter: option for feature in FEATURES.values() for option in feature.options
}
