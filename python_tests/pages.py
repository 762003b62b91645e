"""Small runs to write pages about, and a page as a reader gets it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, tiny
from torch import Tensor

from hast_cuda.data import ImageSet
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods import Recipe
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.synthesis import SynthesisConfig

SHAPE = (CHANNELS, SIZE, SIZE)
SPEC = InputSpec(*SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3)
RECIPE = Recipe(
    SynthesisConfig(num_images=12, batch_size=8, iterations=3, learning_rate=0.1),
    FinetuneConfig(
        iterations=4, batch_size=8, calibration_updates=2, calibration_batch_size=8, shrink_ranges=True, evaluations=2
    ),
)


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


def labelled() -> ImageSet:
    pixels = torch.randint(256, (40, *SHAPE), generator=torch.Generator().manual_seed(11), dtype=torch.uint8)
    return ImageSet(SPEC, torch.arange(40) % CLASSES, lambda i: pixels[torch.as_tensor(i)], 255, "noise")


def make(out: Path, **changed: Any) -> dict[str, Any]:
    """A run with test images; its result."""
    arguments: dict[str, Any] = {
        "teacher": tiny(),
        "shape": SHAPE,
        "bits": Bits(3, 4),
        "recipe": RECIPE,
        "out": out,
        "test": labelled(),
        "seed": 4,
        "describe": {"method": "hast", "network": "tiny"},
    }
    return zero_shot_quantize(**arguments | changed).result


def stopped(out: Path) -> None:
    """As :func:`make`, killed in the last evaluation."""
    reads = iter(range(100))
    images = labelled()

    def read(indices: Any) -> Tensor:
        if next(reads) == 5:  # fingerprint, teacher, rounded, shrunk, half-way, end
            raise KeyboardInterrupt
        return images.read(indices)

    with pytest.raises(KeyboardInterrupt):
        make(out, test=replace(images, read=read))


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
