"""HTML as a tree, by Python's own parser. It is strict where a browser would quietly repair the page."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

_VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})


class Element:
    """A tag with its attributes, its children and the text directly in it and in them."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Element | str] = []

    def walk(self) -> Iterator[Element]:
        """This element and all below it, in the order of the file."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str) -> list[Element]:
        """Every element of that tag at or below this one."""
        return [element for element in self.walk() if element.tag == tag]

    def one(self, tag: str) -> Element:
        """The only one of that tag."""
        (found,) = self.all(tag)
        return found

    @property
    def text(self) -> str:
        words = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join("".join(words).split())


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"<{tag}> has an attribute twice"
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse_page(text: str) -> Element:
    """The document. Raises AssertionError if a tag is not closed by its own end tag."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    assert builder.open == [builder.root], f"<{builder.open[-1].tag}> is not closed"
    return builder.root


def table_text(table: Element) -> str:
    """The table as lines of cells: headings, and rows with their headings before a colon."""
    lines = [f"# {table.one('caption').text}"]
    for row in table.all("tr"):
        cells = [child for child in row.children if isinstance(child, Element)]
        words = [
            f"[{cell.text}]" if cell.tag == "th" and cell.attributes["scope"] == "row" else cell.text
            for cell in cells
        ]
        lines.append(" | ".join(words))
    return "\n".join(lines)
