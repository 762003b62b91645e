"""A document as one self-contained HTML page: no scripts, nothing from elsewhere."""

from __future__ import annotations

import base64
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html import escape
from pathlib import Path

from hast_cuda.report.canvas import INK, PAPER
from hast_cuda.report.document import Block, Code, Document, Facts, Numbers, Picture, Pictures, Sheet, Table, Text, Warn
from hast_cuda.report.style import STYLE

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def to_html(document: Document) -> str:
    """The page; every text in it is escaped."""
    ids = (f"p{number}" for number in itertools.count())
    title = escape(document.title)
    top = "".join(_block(block, ids) for block in document.blocks)
    body = ""
    for section in document.sections:
        inner = "".join(_block(block, ids) for block in section.blocks)
        body += f'<section id="{_anchor(section.title)}">\n<h2>{escape(section.title)}</h2>\n{inner}</section>\n'
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>\n' for s in document.sections)
    contents = f'<nav aria-label="contents">\n{links}</nav>\n' if len(document.sections) > 1 else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{title}</h1>\n{top}{contents}{body}</main>\n</body>\n</html>\n"
    )


def _anchor(title: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))


def _block(block: Block, ids: Iterator[str]) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>\n"
        case Warn(text):
            return f'<p class="warn">{escape(text)}</p>\n'
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>\n"
        case Facts(pairs):
            inner = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in pairs)
            return f'<dl class="facts">\n{inner}</dl>\n'
        case Numbers(pairs, notes):
            below = [f"<dd>{escape(note)}</dd>" if note else "" for note in notes] or [""] * len(pairs)
            inner = "".join(
                f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd>{note}</div>\n"
                for (k, v), note in zip(pairs, below, strict=True)
            )
            return f'<dl class="figures">\n{inner}</dl>\n'
        case Table():
            return _table(block, next(ids))
        case Pictures(pictures):
            inner = "".join(_picture(picture, next(ids)) for picture in pictures)
            return f'<div class="pictures">\n{inner}</div>\n'
        case Sheet():
            return _sheet(block)


def _picture(picture: Picture, prefix: str) -> str:
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    if picture.path.suffix == ".png":
        drawn = f'<img src="{_data(picture.path.read_bytes())}" alt="{escape(picture.alt)}">'
    else:
        drawn = inline_svg(picture.path, prefix, picture.alt)
    return f"<figure>{drawn}{caption}</figure>\n"


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _table(table: Table, name: str) -> str:
    """In a box that scrolls by itself, so that the page does not."""
    head = "".join(
        f'<th scope="col"{_side(table, column)}>{escape(cell)}</th>' for column, cell in enumerate(table.header)
    )
    places = _places(table)
    body = "".join(
        f"<tr{places[line]}>" + "".join(_cell(table, line, column, cell) for column, cell in enumerate(row)) + "</tr>\n"
        for line, row in enumerate(table.rows)
    )
    choices = _choices(table, name)
    kind, columns = ("scroll sorted", f' style="--columns:{len(table.header)}"') if choices else ("scroll", "")
    return (
        f'{choices}<div class="{kind}" tabindex="0"><table{columns}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _choices(table: Table, name: str) -> str:
    """Buttons for the order of the rows; the style sheet does the rest, without a script."""
    if not table.orders:
        return ""
    labels = enumerate(("as in the network", *table.orders))
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{i}"{"" if i else " checked"}>{escape(label)}</label>\n'
        for i, label in labels
    )
    return f'<fieldset class="sort"><legend>order</legend>\n{buttons}</fieldset>'


def _places(table: Table) -> list[str]:
    """The place of every row in every order, as a style."""
    if not table.orders:
        return [""] * len(table.rows)
    places: list[list[int]] = [[0] * len(table.orders) for _ in table.rows]
    for which, keys in enumerate(table.orders.values()):
        for place, row in enumerate(sorted(range(len(keys)), key=keys.__getitem__)):
            places[row][which] = place
    return [f' style="{";".join(f"--o{i}:{place}" for i, place in enumerate(row, 1))}"' for row in places]


def _side(table: Table, column: int) -> str:
    return "" if column < table.numbers else ' class="number"'


def _cell(table: Table, line: int, column: int, cell: str) -> str:
    bar = ""
    if column in table.shares:
        share = table.shares[column][line]
        width = 0.0 if share is None else 100 * min(max(share, 0.0), 1.0)
        kind = "bar none" if share is None else "bar"  # an empty place keeps the numbers in line
        bar = f'<span class="{kind}"><i style="width:{width:.1f}%"></i></span>'
    return f"<td{_side(table, column)}>{escape(cell)}{bar}</td>"


def _sheet(sheet: Sheet) -> str:
    inner = "".join(
        f'<figure><img src="{_data(data)}" '
        f'alt="label {escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>\n'
        for data, caption in sheet.images
    )
    return f'<div class="sheet" role="group" aria-label="{escape(sheet.alt)}">\n{inner}</div>\n'


_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_COLORS = {INK: "var(--ink)", PAPER: "var(--paper)"}
_LEFT_OUT = ("metadata", "style")  # a style element would hold for the whole page


def inline_svg(path: Path, prefix: str, alt: str) -> str:
    """The ``<svg>`` element of a file of :func:`hast_cuda.report.canvas.drawing`; ``prefix`` makes its ids its own."""
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
