"""Text as Markdown that GitHub shows letter by letter."""

from __future__ import annotations

import html
import re

from flashbench.results.one_line import one_line

_SIGNS = re.compile(
    r"[\\|*`~$\[\]]"  # cells, emphasis, code, formulas; links, images, footnotes
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis too, but not within a word
    r"|:(?=//|:)|(?<=www)\."  # addresses become links by themselves; `::` may begin a command in a log
)
# What makes a heading, a list or a rule of a line that begins with it.
_BEGINNING = re.compile(r"^(?:[-+](?=\s|$)|#(?=#{0,5}(?:\s|$))|=|-(?=-+$))")
_NUMBERED = re.compile(r"^(\d+)(?=[.)](?:\s|$))")


def escape_markdown(text: str, *, in_cell: bool = False) -> str:
    """Text that GitHub shows as it is: no HTML, no emphasis, no link, no end of a cell or of the line; and no
    beginning of a block, which a cell cannot have anyway.

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
