"""An SVG file of matplotlib as a part of a page: ids of its own, colours of the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from hast_cuda.report.canvas import INK, PAPER

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_COLORS = {INK: "var(--ink)", PAPER: "var(--paper)"}
_LEFT_OUT = ("metadata", "style")  # a style element would hold for the whole page


def inline_svg(path: Path, prefix: str, alt: str) -> str:
    """The ``<svg>`` element of a file.

    Args:
        path: written by :func:`hast_cuda.report.canvas.drawing`.
        prefix: of every id, different for each picture of a page.
        alt: what the picture shows, for those who do not see it.
    """
    root = ET.parse(path).getroot()
    for parent in root.iter():
        for child in [c for c in parent if _local(c.tag) in _LEFT_OUT]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(k): _inside(_local(k), v, prefix) for k, v in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(attributes)
    for name in ("width", "height"):
        del root.attrib[name]  # as wide as its place on the page
    root.attrib.update({"role": "img", "aria-label": alt})
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """The name without its namespace: HTML knows what is SVG."""
    return name.rpartition("}")[2]


def _inside(name: str, value: str, prefix: str) -> str:
    """The value of an attribute as it is on the page."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return f"#{prefix}-{value.removeprefix('#')}"
    for color, variable in _COLORS.items():
        value = value.replace(color, variable)
    return _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
