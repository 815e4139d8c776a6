"""Text as Markdown that GitHub shows exactly as it is."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from flashbench.results.one_line import one_line

_SIGNS = re.compile(
    r"[\\|*`~$\[\]]"  # cells, emphasis, code, formulas; links, images, footnotes
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis too, except within a word
    r"|:(?=//|:)|(?<=www)\."  # addresses become links; `::` may begin a command in a log
)
# At the beginning of a line these make a heading, a list or a rule.
_BEGINNING = re.compile(r"^(?:[-+](?=\s|$)|#(?=#{0,5}(?:\s|$))|=|-(?=-+$))")
_NUMBERED = re.compile(r"^(\d+)(?=[.)](?:\s|$))")


def escape_markdown(text: str, *, in_cell: bool = False) -> str:
    """Text that GitHub shows as it is: no HTML, emphasis, link, end of a cell or end of the line.

    It begins no block either; in a cell nothing can.

    >>> escape_markdown("a|b <lambda> *x*")
    'a\\\\|b &lt;lambda&gt; \\\\*x\\\\*'
    >>> print(escape_markdown("![now](https://example.org)"))
    !\\[now\\](https\\://example.org)
    """
    text = html.escape(one_line(text).strip(), quote=False)
    text = _SIGNS.sub(r"\\\g<0>", text)
    if in_cell:
        return text
    return _NUMBERED.sub(r"\1\\", _BEGINNING.sub(r"\\\g<0>", text))


def markdown_list(lines: Iterable[str]) -> str:
    """A list with one item for each line, each shown as it is; empty without lines."""
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)
