"""What a page holds, before it is HTML or Markdown: plain text, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hast_cuda.report.canvas import require


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Warn:
    """A paragraph that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text to copy, as it is."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Numbers:
    """The few numbers that a reader came for: what, and how much."""

    pairs: Sequence[tuple[str, str]]
    notes: Sequence[str] = ()
    """Below each number, smaller; none, or one for each, which may be empty."""

    def __post_init__(self) -> None:
        if self.notes and len(self.notes) != len(self.pairs):
            raise ValueError(f"there are {len(self.notes)} notes for {len(self.pairs)} numbers")


@dataclass(frozen=True)
class Table:
    """Cells as text; columns from ``numbers`` on are numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1
    shares: Mapping[int, Sequence[float | None]] = field(default_factory=dict)
    """By column: how long a bar each cell gets, 0 to 1."""
    orders: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By name: a number per row; a reader may have the rows from the smallest to the largest."""

    def __post_init__(self) -> None:
        for name, keys in self.orders.items():
            if len(keys) != len(self.rows):
                raise ValueError(f"the order {name!r} has {len(keys)} numbers for {len(self.rows)} rows")
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells, the header {len(self.header)}: {row}")


@dataclass(frozen=True)
class Picture:
    """An SVG or PNG file, and what it shows."""

    path: Path
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Pictures:
    """SVG files, side by side where there is room."""

    pictures: Sequence[Picture]

    def __post_init__(self) -> None:
        require("pictures", self.pictures)


@dataclass(frozen=True)
class Sheet:
    """Small images, each with a caption, and one file that shows them all."""

    images: Sequence[tuple[bytes, str]]
    """PNG files and captions."""
    path: Path
    alt: str


Block = Text | Warn | Code | Facts | Numbers | Table | Pictures | Sheet


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    blocks: Sequence[Block]
    """Above the first heading."""
    sections: Sequence[Section]
