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
from flashbench.features.entry import Feature, Option, columns, option

if TYPE_CHECKING:
    from flashbench import problem

FEATURES: Mapping[problem.Feature, Feature] = {
    "window": Feature(
        header="Win-\ndow",
        probes={"window": {"window": (4, 4)}},
        options=[
            option(
                "--window",
                "Keys that a query sees on either side, or left and right, such as 256 or 128,0; causal has "
                "none on the right. Give it again for more, such as none to compare with.",
                "windows",
                "N|L,R|none",
                key="windows",
                fields=(),
            )
        ],
        words=lambda p, unit: f"window {words.window_word(p)}",
        name=words.window_name,
        columns=columns("window_left", "window_right"),
    ),
    "softcap": Feature(
        header="Soft-\ncap",
        probes={"softcap": {"softcap": 5.0}},
        options=[
            option(
                "--softcap",
                "Scores become CAP * tanh(score / CAP), such as 50.",
                "above zero or none",
                "CAP|none",
            )
        ],
        words=lambda p, unit: f"softcap {p.softcap:g}",
        name=lambda p: [f"softcap:{p.softcap!r}".removesuffix(".0")],
        columns=columns("softcap"),
    ),
    "alibi": Feature(
        header="ALiBi",
        probes={"alibi": {"alibi": True}},
        options=[option("--alibi/--no-alibi", "Scores fall with the distance of a key, by a slope a head.")],
        words=lambda p, unit: "ALiBi",
        name=lambda p: ["alibi"],
        columns=columns("alibi"),
    ),
    "sinks": Feature(
        header="Sinks",
        probes={"sinks": {"sinks": True}},
        options=[option("--sinks/--no-sinks", "A logit a head joins the softmax's denominator.")],
        words=lambda p, unit: "sinks",
        name=lambda p: ["sinks"],
        columns=columns("sinks"),
    ),
    "mask": Feature(
        header="Mask",
        # An engine may have one kind without another.
        probes={f"{kind}_mask": {"mask": kind} for kind in ("bool", "float", "block")},
        options=[
            option(
                "--mask",
                "bool (hides pairs), float (is added to scores), block (hides blocks) or none, such as "
                "--mask bool.",
                "mask",
                "KIND",
                words=("bool", "float", "block", "none"),
            ),
            option(
                "--mask-axes",
                "What the mask varies along, such as k, qk, hqk or bhqk (default qk); block needs qk.",
                "text",
                "AXES",
            ),
            option(
                "--mask-block",
                "Queries and keys of a block of --mask block, such as 128 (default 64).",
                "whole",
                "N",
                fields=("mask_block_q", "mask_block_k"),
            ),
        ],
        words=lambda p, unit: words.mask_word(p),
        name=words.mask_name,
        columns=columns("mask") | {"mask_axes": words.mask_axes, "mask_block": words.mask_block},
    ),
    "dropout": Feature(
        header="Drop-\nout",
        probes={"dropout": {"dropout": 0.5}},
        options=[
            option("--dropout", "Probabilities that become zero, such as 10% or 0.1.", "share", "SHARE"),
            option("--dropout-seed", "Seed of which ones, such as 1 (default 0).", "seed", "N"),
        ],
        words=lambda p, unit: words.dropout_word(p),
        name=words.dropout_name,
        columns=columns("dropout") | {"dropout_seed": lambda p: p.dropout_seed if p.dropout else None},
    ),
    "key_lengths": Feature(
        header="Key\nlengths",
        probes={"key_lengths": {"key_lengths": (9,)}},
        options=[
            option(
                "--key-lengths",
                "Keys of each sequence that count, or of all: shares such as 0.25,0.5,1 (of every length), "
                "or numbers. Several set --batch.",
                "lengths or none",
                "N,...|none",
                fields=(),
            )
        ],
        words=words.key_lengths_word,
        name=words.key_lengths_name,
        columns={},  # beside that of the queries, below
    ),
    "varlen": Feature(
        header="Var-\nlen",
        probes={"varlen": {"batch": 2, "query_lengths": (16, 5), "key_lengths": (16, 5)}},
        options=[
            option(
                "--varlen",
                "Sequences of these lengths, packed end to end: shares such as 0.25,0.5,1 of every length, "
                "or numbers, which --seq-lens is then the longest of. They set --batch.",
                "lengths or none",
                "N,...|none",
                fields=(),
            )
        ],
        words=words.varlen_word,
        name=words.varlen_name,
        columns={"query_lengths": words.query_lengths, "key_lengths": words.key_lengths},
    ),
    "block_table": Feature(
        header="Pages",
        probes={"block_table": {"page_size": 8}},
        options=[
            option(
                "--page-size",
                "Keys of a page, such as 16: k and v are a paged cache, its pages in random order.",
                "whole or none",
                "N|none",
            )
        ],
        words=lambda p, unit: f"pages of {p.page_size}",
        name=lambda p: [f"page_size:{p.page_size}"],
        columns=columns("page_size"),
    ),
}
# By the parameter of a command's function.
OPTIONS: Mapping[str, Option] = {
    each.parameter: each for feature in FEATURES.values() for each in feature.options
}
