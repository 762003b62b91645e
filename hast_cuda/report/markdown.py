"""A document as Markdown; nothing in it is taken for Markdown or HTML."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from hast_cuda.report.document import Block, Code, Document, Facts, Numbers, Pictures, Sheet, Table, Text, Warn

_SPECIAL = re.compile(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))")  # "_" inside a word is just that


def escape(text: str) -> str:
    """``text`` on one line, with every character that means something made harmless."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def to_markdown(document: Document, folder: Path) -> str:
    """The text of a file in ``folder``, which refers to the pictures by relative names."""
    parts = [f"# {escape(document.title)}", *(_block(b, folder) for b in document.blocks)]
    for section in document.sections:
        parts += [f"## {escape(section.title)}", *(_block(b, folder) for b in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, folder: Path) -> str:
    match block:
        case Text(text):
            return escape(text)
        case Warn(text):
            return f"> **{escape(text)}**"
        case Code(text):
            return _code(text)
        case Numbers(pairs, notes):
            below = [f" ({escape(note)})" if note else "" for note in notes] or [""] * len(pairs)
            lines = zip(pairs, below, strict=True)
            return "\n".join(f"- {escape(key)}: {escape(value)}{note}" for (key, value), note in lines)
        case Facts(pairs):
            return "\n".join(f"- {escape(key)}: {escape(value)}" for key, value in pairs)
        case Table():
            return _table(block)
        case Pictures(pictures):
            return "\n\n".join(_picture(p.alt, p.path, folder, p.caption) for p in pictures)
        case Sheet():
            return _picture(block.alt, block.path, folder, "")


def _code(text: str) -> str:
    """A fence longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _table(table: Table) -> str:
    sides = ["---" if i < table.numbers else "---:" for i in range(len(table.header))]
    rows = [[escape(c) for c in row] for row in table.rows]
    return "\n".join(_row(cells) for cells in ([escape(c) for c in table.header], sides, *rows))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _picture(alt: str, path: Path, folder: Path, caption: str) -> str:
    name = quote(Path(os.path.relpath(path, folder)).as_posix())
    return f"![{escape(alt)}]({name})" + (f"\n\n{escape(caption)}" if caption else "")
