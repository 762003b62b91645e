"""Small runs to write pages about, and a page as a reader gets it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_run import RECIPE as RECIPE_OF_RUN
from test_run import real_images, run

from hast_cuda.run import Bits

RECIPE = replace(RECIPE_OF_RUN, finetune=replace(RECIPE_OF_RUN.finetune, iterations=4))


class Page(HTMLParser):
    """What a reader gets: texts, ids, tags and every attribute."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        last = next((t for t in reversed(self.tags) if t not in ("i", "span")), "")
        if last in ("td", "th") and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data
        if last == "h2" and data.strip():
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row[0] == name)

    def facts(self, name: str) -> str:
        return re.split(rf"<dt>{name}</dt><dd>", self.source)[1].split("</dd>")[0]


def make(out: Path, **changed: Any) -> dict[str, Any]:
    """A run with test images; its result."""
    usual = {"bits": Bits(3, 4), "recipe": RECIPE, "describe": {"method": "hast", "network": "tiny"}}
    return run(out, **usual | changed).result


def stopped(out: Path) -> None:
    """As :func:`make`, killed in the last evaluation."""
    with pytest.raises(KeyboardInterrupt):
        make(out, test=real_images(killed_at=4))  # teacher, rounded, shrunk, half-way, end


def self_contained(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    for key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "srcset", "action"):
            assert value.startswith(("data:image/png;base64,", "#")), value
    assert "http://" not in page.source.replace("http://www.w3.org/", "")
    assert "https://" not in page.source
    assert "@import" not in page.source
    ids = [v for k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    for _, value in page.attributes:
        for wanted in re.findall(r"url\(#([^)]+)\)", value):
            assert wanted in ids
    for key, value in page.attributes:
        if key.endswith("href"):
            assert value[1:] in ids
