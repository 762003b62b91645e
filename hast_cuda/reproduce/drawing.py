"""What a reproduced figure consists of: a table of its values, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hast_cuda.reproduce.runner import Setting
from hast_cuda.reproduce.tables import Row

Say = Callable[[str], None]


@dataclass(frozen=True)
class Drawing:
    """One figure of the paper, measured."""

    header: tuple[str, ...]
    """Of the table that goes with it."""
    lines: list[list[str]]
    """Its cells."""
    data: dict[str, Any]
    """All that was measured, for JSON."""
    pictures: dict[str, Callable[[Path], None]]
    """By file name; each draws one."""
    notes: list[str] = field(default_factory=list)
    """What to know when reading it."""


Measure = Callable[[Sequence[Row], Setting, Sequence[int], Say], Drawing]
