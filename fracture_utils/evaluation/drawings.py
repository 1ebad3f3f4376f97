"""A drawing as part of a page: an SVG file made harmless, small, and of the page's own colours."""

import re
from pathlib import Path
from xml.etree import ElementTree

SHAPES = frozenset({"svg", "g", "defs", "path", "use", "clipPath", "rect", "circle", "text"})
KEPT = frozenset({"d", "x", "y", "width", "height", "r", "cx", "cy", "transform", "viewBox"})
"""Elements and attributes that are taken over, beside style, id and what refers to an id within the
drawing; anything else could load or run something.
"""
COLOUR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)
FONT = re.compile(r"font-family:[^;]*;?\s*|font-variant[\w-]*:[^;]*;?\s*")
DECIMALS = re.compile(r"(\.\d\d)\d+")
REFERENCE = re.compile(r"(?:url\()?#([\w.-]+)\)?")


def inline(path: Path, label: str) -> str:
    """The drawing in `path` as an element of an HTML page, described by `label`; empty where the
    file holds none.

    A colour #0072b2 becomes var(--x-0072b2, #0072b2), so that a style sheet can give it another in
    the dark, but white words stay white; fonts are those of the page. Identifiers begin with the
    file's name, so that several drawings share a page.
    """
    try:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except (ElementTree.ParseError, UnicodeDecodeError):
        return ""
    if _name(root.tag) != "svg":
        return ""
    used = {
        found[1]
        for element in root.iter()
        for key, value in element.attrib.items()
        if _name(key) in {"href", "clip-path"} and (found := REFERENCE.fullmatch(value))
    }
    drawing = _clean(root, path.stem, used)
    for name in ("width", "height"):
        drawing.attrib.pop(name, None)
    drawing.attrib |= {"class": "drawing", "role": "img", "aria-label": label}
    return ElementTree.tostring(drawing, encoding="unicode")


def _name(tag: object) -> str:
    """Without its namespace; empty for comments."""
    return tag.split("}")[-1] if isinstance(tag, str) else ""


def _clean(element: ElementTree.Element, prefix: str, used: set[str]) -> ElementTree.Element:
    clean = ElementTree.Element(_name(element.tag))
    clean.text = element.text if clean.tag == "text" else None
    for key, value in element.attrib.items():
        name = _name(key)
        if name in KEPT:
            clean.set(name, DECIMALS.sub(r"\1", " ".join(value.split())))
        elif name == "style" and "url" not in value:
            clean.set(name, _style(value, clean.tag))
        elif name == "id" and value in used:
            clean.set(name, f"{prefix}-{value}")
        elif name in {"href", "clip-path"} and (found := REFERENCE.fullmatch(value)):
            target = f"#{prefix}-{found[1]}"
            clean.set(name, target if name == "href" else f"url({target})")
    clean.extend(_clean(part, prefix, used) for part in element if _name(part.tag) in SHAPES)
    return clean


def _style(style: str, tag: str) -> str:
    def wish(found: re.Match) -> str:
        colour = found[0].lower()
        kept = tag == "text" and colour == "#ffffff"
        return colour if kept else f"var(--x-{colour[1:]},{colour})"

    return COLOUR.sub(wish, FONT.sub("", style)).strip("; ")
