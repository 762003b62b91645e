"""Docstrings as Markdown that GitHub shows well."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

_HEADER = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
_ENTRY = re.compile(r"(\*{0,2}\w+): (.*)")
_CODE = re.compile(r"(`[^`]+`)")


@dataclass
class Docstring:
    """A docstring taken apart: paragraphs, and the lines of each section."""

    paragraphs: list[str] = field(default_factory=list)
    sections: dict[str, list[str]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first paragraph."""
        return self.paragraphs[0] if self.paragraphs else ""

    def entries(self, section: str) -> dict[str, str]:
        """``name: text`` of the section Args or Attributes."""
        found: dict[str, str] = {}
        name = ""
        for line in self.sections.get(section, []):
            match = None if line.startswith(" ") else _ENTRY.match(line)
            if match:
                name = match[1]
                found[name] = match[2]
            else:
                found[name] += f" {line.strip()}"
        return {key: value.strip() for key, value in found.items()}


def take_apart(text: str) -> Docstring:
    """Paragraphs and sections of a docstring in the style of this project."""
    found = Docstring()
    section: list[str] | None = None
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        start = 0
        for index, line in enumerate(lines):
            match = _HEADER.match(line)
            if match:
                _end(found, section, lines[start:index])
                section, start = found.sections.setdefault(match[1], []), index + 1
        rest = lines[start:]
        if start == 0 and not rest[0].startswith(" "):
            section = None
        _end(found, section, rest)
    return found


def _end(found: Docstring, section: list[str] | None, lines: list[str]) -> None:
    """Put lines where they belong."""
    if section is not None:
        section += [line[4:] for line in lines]
    elif lines:
        found.paragraphs.append("\n".join(lines))


def inline(text: str) -> str:
    """Roles and double backticks as code, on one line; outside of code nothing is markup."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    parts = _CODE.split(" ".join(text.split()))
    return "".join(p if p.startswith("`") and len(p) > 1 else _plain(p) for p in parts)


def _plain(text: str) -> str:
    return re.sub(r"<(?=[A-Za-z/])", r"\\<", text.replace("*", r"\*"))


def cell(text: str) -> str:
    """For a table."""
    return text.replace("|", r"\|")


def paragraphs(doc: Docstring) -> list[str]:
    """Prose, and indented blocks after "::" as code."""
    found: list[str] = []
    for paragraph in doc.paragraphs:
        if paragraph.startswith("    "):
            lines = [line[4:] for line in paragraph.split("\n")]
            found.append("\n".join(["```python", *lines, "```"]))
        else:
            found.append(inline(re.sub(r"::$", ":", paragraph)))
    return found


def bullets(entries: dict[str, str]) -> str:
    """``- `name`: text`` a line."""
    return "\n".join(f"- `{name}`: {inline(text)}" for name, text in entries.items())


def full(doc: Docstring, *, attributes: bool = True) -> list[str]:
    """All of a docstring, as blocks."""
    found = paragraphs(doc)
    for section in ("Args", "Attributes") if attributes else ("Args",):
        if entries := doc.entries(section):
            # a line between two lists, which Markdown would join
            found += ["Attributes:"] if section == "Attributes" else []
            found.append(bullets(entries))
    for section in ("Returns", "Yields", "Raises"):
        if lines := doc.sections.get(section):
            found.append(f"**{section}** {inline(' '.join(lines))}")
    return found


def flat(doc: Docstring) -> str:
    """All of a docstring in one line, for a list of methods."""
    parts = [inline(p) for p in doc.paragraphs]
    parts += [f"`{name}`: {inline(text)}" for name, text in doc.entries("Args").items()]
    for section in ("Returns", "Yields", "Raises"):
        if lines := doc.sections.get(section):
            parts.append(f"{section} {inline(' '.join(lines))}")
    return " ".join(parts)


def anchor(heading: str) -> str:
    """GitHub's link target of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def targets(headings: list[str]) -> dict[str, str]:
    """Link targets of all headings of a page: GitHub numbers those that collide."""
    seen: Counter[str] = Counter()
    found = {}
    for heading in headings:
        name = anchor(heading)
        found[heading] = f"{name}-{seen[name]}" if seen[name] else name
        seen[name] += 1
    return found
