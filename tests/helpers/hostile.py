"""Hostile texts (markup, escapes, commands), and results files full of them."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from flashbench.results.record import Results
from flashbench.results.store import decode

FRAGMENTS = (
    "\n::error::pwned",
    "\r\n::stop-commands::x",
    "\u2028::warning::x",
    "x" * 90 + " ::error::wrapped",
    "##[error]pwned",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\x00\x08\x7f",
    "\u202eright to left",
    "\ufffe\uffff",
    "</svg></td><script>alert(1)</script><img src=x onerror=alert(2)>",
    "[link](javascript:alert(1))",
    "![image](https://example.org/x.png)",
    "[a]: https://example.org",
    "www.example.org",
    "| cell |",
    "**bold** _it_ `code` ~~gone~~ $x$",
    "[red]markup[/red] [/nothing]",
    "# heading",
    "- item",
    "1. item",
    "=1+1",
    "+1",
    "-1.5",
    "@SUM(A1)",
    "\t=1",
    "'\"&;,",
    "\\",
    "::error::at once",
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), min_size=1, max_size=4).map("".join)
# Fields of a file that may hold any text. Engine names stay if a report looks for them by name.
_FREE = ("reason", "note", "kernel", "host", "cpu", "microarchitecture", "isa", "governor", "os", "python")


def with_texts(results: Results, text: str) -> Results:
    """The results as read from a file that has `text` in every field that may hold any text."""
    document = msgspec.to_builtins(results)
    kinds = ("measurements", "training", "inference", "duels")
    places = [document["machine"], *(row for kind in kinds for row in document[kind])]
    for place in places:
        place |= {name: text for name in _FREE if name in place}
        if "engine" in place and place["engine"] != "flash":
            place["engine"] = text
        for name in ("model", "attention", "data"):
            if name in place:
                place[name] = text
    for row in document["measurements"][1::3]:
        row |= {"status": "crashed", "time": None, "rates": None}
    for duel in document["duels"]:  # whose summary names an engine then
        duel["verdict"] = "a_faster"
    document["warnings"] = [text]
    document["command"] = ["flashbench", text]
    document["config"] = _replaced(document["config"], text) | {"title": text}
    document["processes"] = {
        key if key in ("a", "b") else text: process | {"python": text, "environment": {text: text}}
        for key, process in document["processes"].items()
    }
    return decode(msgspec.json.encode(document), name="hostile.json")


def _replaced(config: dict[str, Any], text: str) -> dict[str, Any]:
    """A duel's sides name their engines and interpreters."""
    return {key: dict.fromkeys(value, text) if key in ("a", "b") else value for key, value in config.items()}
