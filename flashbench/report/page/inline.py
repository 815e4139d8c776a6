"""A Matplotlib SVG as part of a page: with the page's font and colours, and with unique ids."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from markupsafe import Markup

from flashbench.report.colours import COLOURS

_SVG = "{http://www.w3.org/2000/svg}"
_VARIABLES = {colour.light: f"var(--{colour.name})" for colour in COLOURS}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT_FAMILY = re.compile(r"\s*font-family:[^;]*;?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(svg: bytes, *, prefix: str, label: str, description: str) -> Markup:
    """The chart as an element of the page.

    Its colours become the page's variables, so that one drawing serves light and dark. Its ids get `prefix`,
    because every figure has the same ones. Namespaces, metadata and the style sheet are removed: the style
    sheet would apply to the whole page.
    """
    root = ElementTree.fromstring(svg)
    referred = _referred(root)
    _strip(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            plain = name.rpartition("}")[2]
            if plain == "id" and value not in referred:
                continue
            if plain == "transform" and value.startswith("rotate(-0 "):
                continue
            element.set(plain, _attribute(plain, value, prefix))
        for part in ("text", "tail"):  # Matplotlib's indentation is a third of the bytes
            if not (getattr(element, part) or "").strip():
                setattr(element, part, None)
    box = root.get("viewBox") or ""
    width = float(box.split()[2])
    root.attrib = {
        "viewBox": box,
        "role": "img",
        "aria-label": label,
        "aria-describedby": f"{prefix}-desc",
        # If it were smaller, its text could not be read. The chart scrolls instead of the page.
        "style": f"min-width: {0.85 * width:.0f}px; max-width: {1.5 * width:.0f}px",
    }
    words = ElementTree.Element("desc", {"id": f"{prefix}-desc"})
    words.text = description
    root.insert(0, words)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # built here, escaped by ElementTree


def _strip(root: ElementTree.Element) -> None:
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    for definitions in root.findall(f"{_SVG}defs"):
        for sheet in definitions.findall(f"{_SVG}style"):
            definitions.remove(sheet)
        if not len(definitions):
            root.remove(definitions)


def _referred(root: ElementTree.Element) -> set[str]:
    """The ids that some element refers to; the others only name Matplotlib's groups."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    links = {value[1:] for value in values if value.startswith("#")}
    return links | {name for value in values for name in _REFERENCE.findall(value)}


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return f"#{prefix}-{value.removeprefix('#')}"
    if name == "style":
        value = _FONT_FAMILY.sub("", value)
        value = _COLOUR.sub(lambda match: _VARIABLES[match[0]], value)
    return _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
