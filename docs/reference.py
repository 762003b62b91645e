"""Writes the reference of the site, from the rooms' ``__all__`` and their docstrings.

A hook of mkdocs puts one entry per public name into reference.md; an extension of
griffe turns the roles of docstrings (:func:`x`) into code, which Markdown knows.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from griffe import Extension, Object

import hast_cuda
from hast_cuda.cli import VERBS, verb
from hast_cuda.cli.analyze import ANALYSES
from hast_cuda.cli.bits import LayerBits, Widths
from hast_cuda.cli.network import Network
from hast_cuda.cli.options import Budget

PRIVATE = {"checks", "cli", "files", "loops", "ops", "reproduce"}
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


class Roles(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for each object once its members are known."""
        if obj.docstring is not None:
            obj.docstring.value = _code(obj.docstring.value)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page with its entries."""
    if page.file.src_uri != "reference.md":
        return markdown
    return "\n".join([markdown, *_rooms(), *_command_line()])


def _rooms() -> Iterator[str]:
    packages = (m.name for m in pkgutil.iter_modules(hast_cuda.__path__) if m.ispkg)
    rooms = [f"hast_cuda.{name}" for name in packages if name not in PRIVATE]
    seen: set[int] = set()
    for path in ("hast_cuda", *rooms):
        room = importlib.import_module(path)
        yield f"\n## {path}\n\n{_code(room.__doc__)}\n"
        for name in room.__all__:
            thing = getattr(room, name)
            if inspect.ismodule(thing):  # a method
                yield f"- `{name}`: {_code(thing.__doc__).partition(chr(10))[0]}"
            elif not (inspect.isclass(thing) or inspect.isfunction(thing)):
                yield f"- `{name} = {thing!r}`"
            elif id(thing) not in seen:
                seen.add(id(thing))
                yield _entry(thing)


def _command_line() -> Iterator[str]:
    yield "\n## Command line\n"
    verbs = [
        *(verb(name) for name in VERBS if name != "analyze"),
        *ANALYSES.values(),
        Network,
        Widths,
        LayerBits,
        Budget,
    ]
    yield from (_entry(thing) for thing in verbs)


def _entry(thing: Any) -> str:
    return f"\n::: {thing.__module__}.{thing.__qualname__}\n"


def _code(text: str | None) -> str:
    return _ROLE.sub(r"`\1`", text or "").replace("``", "`")
